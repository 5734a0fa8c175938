//! A real three-node Kubernetes on one machine, without Docker or systemd.
//!
//! [`lifecycle`] brings it up and takes it down; [`cluster::Cluster`] is what
//! tests use; [`node`], [`faults`] and [`services`] break things. The README
//! beside this crate shows the layout.

pub mod addresses;
pub mod certificates;
pub mod cgroup;
pub mod cluster;
pub mod controlplane;
pub mod disk;
pub mod dns;
pub mod faults;
pub mod forward;
pub mod images;
pub mod kubeconfig;
pub mod layout;
pub mod lifecycle;
pub mod network;
pub mod node;
pub mod node_init;
pub mod process;
pub mod progress;
pub mod services;
pub mod shell;
pub mod tools;

pub use addresses::Node;
pub use cluster::{Cluster, Status};
pub use faults::Cut;
pub use layout::Lab;
pub use services::{S3, Service, Stop};
