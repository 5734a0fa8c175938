//! The defences of the files of metasrv and of the frontend that are part of the simulation, by the names that they have
//! there. Seeds can be run without each of them; the tests that show them are in their crates.

greptime_defences::defences! {
    /// Of metasrv's catalog.
    RootIsCompared => [],
    /// Of metasrv's catalog.
    GivenUpCountForNothing => [],
    /// Of the ids of writes.
    GivenUpIsNamed => [],
    /// Of the holding of requests.
    PassingFailureIsHeld => [],
    /// Of the holding of requests.
    HeldBytesAreBounded => [],
    /// Of the holding of requests.
    HeldTimeIsBounded => [],
    /// Of the holding of requests.
    StaleQueryIsPlannedAnew => [],
}
