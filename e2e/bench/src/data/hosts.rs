//! The tags of a host.

use super::rng::Rng;

/// Names of the ten tags, in the order in which they are written.
pub const TAGS: [&str; 10] = [
    "hostname",
    "region",
    "datacenter",
    "rack",
    "os",
    "arch",
    "team",
    "service",
    "service_version",
    "service_environment",
];

const REGIONS: [(&str, &str); 9] = [
    ("us-east-1", "abce"),
    ("us-west-1", "ab"),
    ("us-west-2", "abc"),
    ("eu-west-1", "abc"),
    ("eu-central-1", "ab"),
    ("ap-southeast-1", "ab"),
    ("ap-southeast-2", "ab"),
    ("ap-northeast-1", "ac"),
    ("sa-east-1", "abc"),
];
const SYSTEMS: [&str; 3] = ["Ubuntu16.10", "Ubuntu16.04LTS", "Ubuntu15.10"];
const ARCHITECTURES: [&str; 2] = ["x64", "x86"];
const TEAMS: [&str; 4] = ["SF", "NYC", "LON", "CHI"];
const ENVIRONMENTS: [&str; 3] = ["production", "staging", "test"];
const RACKS: usize = 100;
const SERVICES: usize = 20;
const VERSIONS: usize = 2;

/// Values of [`TAGS`], in that order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub tags: [String; 10],
}

impl Host {
    pub fn draw(number: usize, rng: &mut Rng) -> Self {
        let (region, zones) = *rng.choose(&REGIONS);
        let zone = *rng.choose(zones.as_bytes()) as char;
        Self {
            tags: [
                name(number),
                region.to_string(),
                format!("{region}{zone}"),
                rng.below(RACKS).to_string(),
                rng.choose(&SYSTEMS).to_string(),
                rng.choose(&ARCHITECTURES).to_string(),
                rng.choose(&TEAMS).to_string(),
                rng.below(SERVICES).to_string(),
                rng.below(VERSIONS).to_string(),
                rng.choose(&ENVIRONMENTS).to_string(),
            ],
        }
    }
}

/// The hostname of a host.
pub fn name(number: usize) -> String {
    format!("host_{number}")
}
