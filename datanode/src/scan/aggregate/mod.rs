//! Aggregates beside a region, computed from stretches of series.
//!
//! Rows of a region are sorted by series and time. Which group a row belongs to is therefore decided once for each
//! stretch of a series that lies in one interval of time, not once for each row. The aggregate functions are
//! DataFusion's own; what is given out are their states, which DataFusion merges. Those that take the newest row of a
//! group are computed here, and if the whole region is asked for, to the end.

mod exec;
mod groups;
mod last;
mod plan;
mod states;
mod values;

pub use plan::accelerate;

#[cfg(test)]
mod tests;
