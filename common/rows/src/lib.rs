//! Rows on their way from a client to a region.
//!
//! Most rows of a write share their tags with others, before and after it. A [`SeriesBatch`] therefore says each set
//! of tags once and numbers it; a row has the number. Columns are named by their ids, so that a rename between
//! sending and applying changes nothing.
//!
//! ```text
//! series:   "0": host  "3": dc          rows:  __series  "1": ts  "2": usage
//!     0          a         x                       0        10       0.5
//!     1          b         NULL                    1        10       0.7
//!                                                  0        20       0.4
//! ```

mod batch;
mod convert;
mod wire;

pub use batch::{Column, SERIES_KEY, SeriesBatch, id_of};
pub use wire::{Encoded, decode};

#[cfg(test)]
mod tests;
