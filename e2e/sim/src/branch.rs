//! The branches of rules that the seeds must reach, by name.

macro_rules! branches {
    ($($name:ident,)+) => {
        /// A branch of a rule, in the code under test or beside it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Branch {
            $($name,)+
        }

        impl Branch {
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

branches! {
    AwaitedPeersAreKept,
    Brake,
    CampaignOrdered,
    CatalogIsTakenOver,
    CatalogOutcomeUnknown,
    ClaimBeforeDeleting,
    CommittedEntriesAreLost,
    CopyUnderWayIsRefused,
    DeadByFact,
    DeadBySilence,
    DuplicateRequest,
    EditIsPutAgain,
    FailedWriteEndsTheNode,
    FallbackElection,
    FlushFails,
    FlushIsAdopted,
    FollowerTakesNoRowsAhead,
    FollowerTakesView,
    FullDiskRefuses,
    GroupOfOneGrows,
    HandedOverBeforeAStop,
    HigherEpochStops,
    LateCampaignIgnored,
    LateCopyIsRefused,
    LateEntryIsNotApplied,
    LatenessIsCredited,
    LeaderSuspect,
    LeaseIsGivenUp,
    LeaseIsGranted,
    LeaseIsRenounced,
    LeaseIsRefused,
    LeaseIsWithheld,
    LeaseOfTheGoneIsEnded,
    MajorityLost,
    MemberIsReplaced,
    MembersAreRecordedAnew,
    MergeIsAdopted,
    MergeIsOvertaken,
    MetasrvIsElected,
    MigrationBegins,
    MigrationHandsOver,
    MigrationIsDone,
    MigrationIsUndone,
    MissingFileIsLookedForAnew,
    NewLeaderLoadsAtOnce,
    NewerSchemaIsWaitedFor,
    NobodyHeard,
    OlderEpochIsRefused,
    OlderRouteIsIgnored,
    Orphaned,
    OrphansAreDeleted,
    OthersEditIsNotOwn,
    OutcomeIsUnknown,
    OwnEditIsAdopted,
    PeerNamesItsNode,
    PutHappenedAndFailed,
    ReadIsConfirmed,
    ReadIsNotConfirmed,
    ReadUnderLease,
    RegionGoesOnAlone,
    RegionIsGivenToOne,
    RemovedFilesAreDeleted,
    ReplicaJoins,
    ReplicaLeaves,
    RequestIsHeld,
    SecondProcessRefused,
    SilentSessionEnds,
    SnapshotByCheckpoint,
    StaleRowsAreRefusedInTheLog,
    TableIsAltered,
    TheQuietAreForgotten,
    TransferOrdered,
    TrimFollowed,
    TrimFollowsTheEdit,
    TruncatedFilesAreHidden,
    UnsyncedIsLost,
    Unwell,
    WaitForLease,
}
