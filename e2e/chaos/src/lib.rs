//! What the two programs that break clusters share: how times become numbers.

pub mod numbers;
