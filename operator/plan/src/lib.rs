//! Pure planning: observed state in, objects and conditions out.
