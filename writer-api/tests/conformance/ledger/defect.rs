//! The ways in which a writer can be broken, and the rule that each of them breaks.

use serde::Deserialize;

/// One mistake of an author. Each is made in one place of the writer, and nothing else is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Defect {
    SaysItsPid,
    TouchesItsFiles,
    ReplacesTheLockFile,
    NamesAComponentTwice,
    HoldsWithoutDeclaringIt,
    LetsGoEarly,
    HoldsNothing,
    SecondThawFails,
    EarlyThawFails,
    ThawForgets,
    ThawHangs,
    ThawSaysThatNothingWasHeld,
    TakesTheHoldLate,
    HandsTheHoldOver,
    HoldsInAChild,
    DoesNotHearTheEnd,
    TakesMillisecondsForSeconds,
    KeepsQuietWhenLate,
    AbortForgets,
    AbortNeedsAHold,
    ForgetsAFile,
    RecoveryLosesAnEntry,
    RefreshesTheCopy,
    VerifyRefuses,
    StampsTheUnknown,
    StampsAll,
    RefusesItsOwnStamps,
    TruncatesEarly,
    TruncatesAll,
    TruncatesAfterACopy,
    TruncatesWhenGivenUp,
    ClaimsToHaveTruncated,
    AlwaysDown,
    RemembersItsState,
    RegistersNothing,
    RegistersForItsLifetime,
    ForgetsToUnregister,
    HasMoreThanItDeclares,
    HasLessThanItDeclares,
    SealsSomethingElse,
    SealsForTheFirst,
    SealsForNobody,
    KeyInAnError,
    KeyOnStandardError,
    KeyInTheFiles,
    SealsAsReadableByAll,
    CutsAStreamShort,
    TakesAnyCount,
    RunsAStepOnce,

    // Not planted for one rule: nothing goes on without a description.
    IdentifyHangs,
    IdentifyBlocks,
    IdentifyPanics,
    IdentifyDies,
}

/// What a broken writer has to come to.
pub struct Planted {
    pub defect: Defect,
    /// The one rule that fails.
    pub fails: &'static str,
    /// A part of what is said of it: it fails for this reason and no other.
    pub since: &'static str,
    /// Rules that need what is broken, and say so.
    pub blocks: &'static [&'static str],
}

const fn fails(defect: Defect, fails: &'static str, since: &'static str) -> Planted {
    Planted { defect, fails, since, blocks: &[] }
}

const fn blocks(
    defect: Defect,
    fails: &'static str,
    since: &'static str,
    blocks: &'static [&'static str],
) -> Planted {
    Planted { defect, fails, since, blocks }
}

#[rustfmt::skip]
pub const PLANTED: &[Planted] = &[
    fails(Defect::SaysItsPid,                  "W1",  "asked again, it says something else: `/version`"),
    fails(Defect::TouchesItsFiles,             "W1",  "changed each time `Identify` was called"),
    fails(Defect::ReplacesTheLockFile,         "W1",  "`Identify` was called in another process, and the write"),
    fails(Defect::NamesAComponentTwice,        "W2",  "component `logs` is declared twice"),
    // Nobody asks a writer to hold that does not say that it can.
    fails(Defect::HoldsWithoutDeclaringIt,     "W2",  "`book` are `held`, and the capability `freeze` is not declared"),
    fails(Defect::LetsGoEarly,                 "W3",  "nobody had called `Thaw`"),
    blocks(Defect::HoldsNothing,               "W3",  "still the application acknowledged the write", &["W4", "W6", "W7", "W8", "W9", "W10"]),
    fails(Defect::SecondThawFails,             "W4",  "repeated, `Thaw` was answered with"),
    fails(Defect::EarlyThawFails,              "W4",  "after BeginBackup, the first `Thaw` was answered with"),
    blocks(Defect::ThawForgets,                "W4",  "`Thaw` said `released`, and the application was still held", &["W11"]),
    blocks(Defect::ThawHangs,                  "W4",  "did not answer `Thaw` within 1000 ms", &["W10", "W11", "W12", "W13"]),
    fails(Defect::ThawSaysThatNothingWasHeld,  "W4",  "the application was held, and `Thaw` said `was_not_held`"),
    fails(Defect::TakesTheHoldLate,            "W5",  "it was held after all"),
    fails(Defect::HandsTheHoldOver,            "W6",  "right after that the application was still held"),
    fails(Defect::HoldsInAChild,               "W7",  "was killed (SIGKILL)"),
    fails(Defect::DoesNotHearTheEnd,           "W8",  "its socket was closed"),
    fails(Defect::TakesMillisecondsForSeconds, "W9",  "whose budget was 600 ms"),
    fails(Defect::KeepsQuietWhenLate,          "W9",  "the `Thaw` after that said `was_not_held`"),
    fails(Defect::AbortForgets,                "W10", "`Abort` was answered, and the application was still held"),
    blocks(Defect::AbortNeedsAHold,            "W10", "after BeginBackup, the first `Abort` was answered with", &["W13"]),
    fails(Defect::ForgetsAFile,                "W11", "does not open the restored copy: cannot open `accounts`"),
    fails(Defect::RecoveryLosesAnEntry,        "W11", "acknowledged before the freeze are not in the restored copy"),
    fails(Defect::RefreshesTheCopy,            "W11", "writes that were begun after the thaw"),
    fails(Defect::VerifyRefuses,               "W11", "`Verify` was answered with"),
    fails(Defect::StampsTheUnknown,            "W12", "gave a stamp to `nobody`"),
    fails(Defect::StampsAll,                   "W12", "only `book` took part"),
    fails(Defect::RefusesItsOwnStamps,         "W12", "with its own stamps as the base's"),
    fails(Defect::TruncatesEarly,              "W13", "`BackupComplete` had not been called yet"),
    fails(Defect::TruncatesAll,                "W13", "`1.log`, `2.log`, `3.log` are gone"),
    fails(Defect::TruncatesAfterACopy,         "W13", "a backup of type `copy` was completed"),
    fails(Defect::TruncatesWhenGivenUp,        "W13", "a full backup was given up"),
    fails(Defect::ClaimsToHaveTruncated,       "W13", "and (none) are gone from the application"),
    fails(Defect::AlwaysDown,                  "W14", "the application runs, and `OnlineState` said `down`"),
    fails(Defect::RemembersItsState,           "W14", "the application was stopped, and `OnlineState` said `ready`"),
    fails(Defect::RegistersNothing,            "W15", "a restore was registered, and the application started"),
    fails(Defect::RegistersForItsLifetime,     "W15", "was killed after it had registered"),
    fails(Defect::ForgetsToUnregister,         "W15", "still does not start"),
    fails(Defect::HasMoreThanItDeclares,       "W16", "the capability `stream` is not declared, and `ListStreams`"),
    blocks(Defect::HasLessThanItDeclares,      "W16", "the capability `logs` is declared, and `ListLogs` answered `Unsupported`", &["W13"]),
    fails(Defect::SealsSomethingElse,          "W17", "opens with the first identity, and is"),
    fails(Defect::SealsForTheFirst,            "W17", "does not open with the second identity"),
    fails(Defect::SealsForNobody,              "W17", "`SealKeys` took (none) for recipients"),
    fails(Defect::KeyInAnError,                "W17", "is in an answer or an error of the writer"),
    fails(Defect::KeyOnStandardError,          "W17", "is in what the writer wrote to standard error"),
    fails(Defect::KeyInTheFiles,               "W17", "is in the files of component `book`"),
    fails(Defect::SealsAsReadableByAll,        "W17", "was sealed as one of mode 644"),
    fails(Defect::CutsAStreamShort,            "W18", "one is the beginning of the other"),
    fails(Defect::TakesAnyCount,               "W18", "took a count of"),
    fails(Defect::RunsAStepOnce,               "W19", "run again it failed"),
];
