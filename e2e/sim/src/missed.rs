//! Rules that are taken away, one at a time: the seeds must find what that breaks.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Rules whose absence the seeds find: those of the log, then those around it.
pub const FOUND: &[&str] = &[
    "MessageNamesItsReplica",
    "OnlyVotersCampaign",
    "TrimIsKnownAtOnce",
    "OlderTermIsAnswered",
    "FollowerCallsAgain",
    "LastVoterElectsItself",
    "LateCopyIsRefused",
    "GivenUpIsRefused",
    "OwnTermIsApplied",
    "EditHasTheIdsOfItsRows",
    "TrimFollowsTheEdit",
    "OutcomeIsRead",
    "OwnEditIsAdopted",
    "OthersEditIsNotOwn",
    "EditIsPutIfAbsent",
    "HigherEpochStops",
    "ReadsAreConfirmed",
    "ReadsWaitForTheManifest",
    "FlushedRowsLeaveMemory",
    "RowsStayUntilTheirFilesAreKnown",
    "RestoreForgetsNewerFiles",
    "MissingFileIsAnError",
    "OrphansAreNotNamed",
    "MergeStillFits",
    "TruncatedFilesAreHidden",
    "TruncationIsInTheEdit",
    "EditHasTheSchemaOfItsRows",
    "OnlyTheQuietAreForgotten",
    "NewerSchemaIsWaitedFor",
    "StaleRowsAreRefusedInTheLog",
];

const REDUNDANT: &str = "another rule makes good for it";
const RARE: &str = "what it takes did not come together in the 250 seeds that were tried";

/// Rules whose absence the seeds do not show, and why. Tests of their crates, and the model of the rules, show them.
pub const UNSEEN: &[(&str, &str)] = &[
    ("ChangeOfMembersIsOnDiskFirst", RARE),
    ("SurvivorBeginsWithTheFiles", RARE),
    ("SurvivorGivesUpItsTail", RARE),
    ("SurvivorKnowsWhatIsVoid", RARE),
    ("StuckGroupsHoldUpNobody", RARE),
    ("LateRecoveryIsVoid", RARE),
    ("LogHasALimit", "disks have no size"),
    ("FailedWriteIsNone", "FailedWriteEndsTheLog makes good for it"),
    (
        "FailedWriteEndsTheLog",
        "the process that ends is the simulation's",
    ),
    ("PanicEndsTheLog", "the process that ends is the simulation's"),
    ("WholeTrimForgets", "logs have no files"),
    ("TrimmedFilesAreRemoved", "logs have no files"),
    ("WhatIsAnsweredIsOnDisk", "logs have no files"),
    ("TornTailIsCut", "logs have no bytes"),
    ("TornEntriesAreCut", "logs have no bytes"),
    ("MovedEntriesAreSynced", "logs have no files"),
    ("CleaningSyncsFirst", "logs have no files"),
    ("FullLogTakesNoRows", "disks have no size"),
    ("FullDiskHasAReserve", "disks have no size"),
    ("FullLogIsCleaned", "disks have no size"),
    ("FullDiskBeginsNoFile", "logs have no files"),
    ("StopDoesNotWaitForRoom", "disks have no size"),
    ("DamageIsNoTornTail", "logs have no bytes"),
    ("EmptyEndIsRemoved", "logs have no files"),
    ("EditHasAChecksum", "edits have no bytes"),
    ("OthersEndBeforeTheOwn", "no disk loses what was synced"),
    ("FilesEndWithTheLog", "no disk loses what was synced"),
    (
        "UnknownEditKeepsItsFiles",
        "every edit can be read, so every outcome is known in the end",
    ),
    ("VoidUploadsAreDeleted", "nobody pays for space"),
    ("OrphansAreOld", "ClaimBeforeDeleting makes good for it"),
    (
        "AwaitedPeersAreKept",
        "streams are opened again when all have come, and nothing is lost meanwhile",
    ),
    ("PeerNamesItsNode", "no address is used by another node"),
    ("AppliedIdsAreKnown", "CopyUnderWayIsRefused makes good for it"),
    ("CopyUnderWayIsRefused", "AppliedIdsAreKnown makes good for it"),
    (
        "FollowerTakesNoRowsAhead",
        "readers and flushes leave out what files have",
    ),
    (
        "RemovedFilesHaveGrace",
        "MissingFileIsLookedForAnew makes good for it",
    ),
    (
        "MissingFileIsLookedForAnew",
        "RemovedFilesHaveGrace makes good for it",
    ),
    ("OlderEpochIsRefused", REDUNDANT),
    ("NewerEpochIsRefused", REDUNDANT),
    ("OnlyLeadersPropose", RARE),
    ("VotesHaveAnAuthority", RARE),
    ("OldCampaignIsIgnored", RARE),
    ("ReplacedTailIsVoid", RARE),
    ("LowMarkOnlyGrows", RARE),
    ("CheckpointHasTheIds", RARE),
    ("EditHasTheIds", RARE),
    ("ClaimBeforeDeleting", RARE),
    ("OrphansAreOfLowerEpochs", RARE),
    ("LeaseCountsFromItsBeat", RARE),
    ("LeaseIsOfItsTerm", RARE),
    ("LeaseIsGivenUpFirst", RARE),
    ("NewLeaderLoadsAtOnce", RARE),
    ("WhoWritesAgainIsKept", RARE),
    ("AlterGoesForwardOnly", RARE),
    ("LeaseIsRenouncedFirst", RARE),
    ("RenouncedLeaseStaysVoid", RARE),
];

/// Runs seeds without a rule, in a process of its own, up to the first violation; what it said.
pub fn without(rule: &str, seeds: u64) -> Result<String> {
    let output = Command::new(std::env::current_exe()?)
        .args(["--first", "--seeds", &seeds.to_string()])
        .env(greptime_defences::WITHOUT, rule)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running seeds without {rule}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let found = said
        .lines()
        .find(|line| line.starts_with("seed ") && line.contains(", at "));
    match found {
        Some(line) => Ok(line.to_owned()),
        None => bail!("{seeds} seeds find nothing without {rule}"),
    }
}
