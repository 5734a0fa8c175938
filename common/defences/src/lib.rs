//! What stands between a fault and the rows, by name; and the proof that each of it is needed.
//!
//! A defence is code that only matters when something fails, so tests can pass without ever meeting it. Where debug
//! assertions are on, `GREPTIME_TEST_WITHOUT=Name` takes the defence of that name away. The tests that are said to
//! show it must fail then: [`each_is_missed`] runs them so. In a release every defence holds, and costs nothing.

mod proof;

pub use proof::{each_is_missed, each_is_missed_and_says, each_is_missed_in};

/// Names the defence that is away.
pub const WITHOUT: &str = "GREPTIME_TEST_WITHOUT";

/// Whether a test takes the defence of this name away.
#[cfg(debug_assertions)]
pub fn is_away(name: &str) -> bool {
    use std::sync::LazyLock;
    static AWAY: LazyLock<Option<String>> = LazyLock::new(|| std::env::var(WITHOUT).ok());
    AWAY.as_deref() == Some(name)
}

/// Makes `enum Defence` of a crate, and `PROOFS`: each defence with the tests that show it, by their paths in the crate. Of
/// those in another test program of the crate (`X => [] in "sessions" ["a_test"]`), `PROOFS_ELSEWHERE` has the names.
#[macro_export]
macro_rules! defences {
    ($($(#[$about:meta])* $name:ident => [$($test:literal),* $(,)?] $(in $program:literal [$($shown:literal),+ $(,)?])?,)+) => {
        /// One way in which rows would be lost, doubled, invented or hidden, were it not for this.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Defence {
            $($(#[$about])* $name,)+
        }

        #[cfg(test)]
        #[allow(dead_code, reason = "some crates have all their tests outside")]
        const PROOFS: &[(Defence, &[&str])] = &[$((Defence::$name, &[$($test),*]),)+];

        /// Each defence with the test programs that show it, and the tests.
        #[allow(dead_code, reason = "some crates have all their tests inside")]
        pub const PROOFS_ELSEWHERE: &[(Defence, &str, &[&str])] = &[$($((Defence::$name, $program, &[$($shown),+]),)?)+];

        impl Defence {
            /// Whether it is there, as it always is but in a test that takes it away.
            #[cfg(not(debug_assertions))]
            #[inline(always)]
            pub const fn holds(self) -> bool {
                true
            }

            #[cfg(debug_assertions)]
            pub fn holds(self) -> bool {
                let name = match self {
                    $(Self::$name => stringify!($name),)+
                };
                !$crate::is_away(name)
            }
        }
    };
}
