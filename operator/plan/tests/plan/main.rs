//! The planner from outside: what it renders, what it refuses, what it tells.

mod conditions;
mod golden;
mod never_lower;
mod pods;
mod purity;
mod refusals;
mod support;
