//! The ledger's writer: a good one without a [`Defect`], and with one broken in exactly that place.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use holdfast_writer_api::*;
use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;

use super::defect::Defect;
use super::hold::Hold;
use super::restore::Restore;

pub static LEDGER: WriterDescriptor =
    WriterDescriptor { name: "ledger", summary: "the ledger of the kit's own tests", build };
inventory::submit! { WriterDescriptor { name: "ledger", summary: "the ledger of the kit's own tests", build } }

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    dir: PathBuf,
    #[serde(default)]
    defect: Option<Defect>,
    /// Locked for as long as the writer's process lives.
    #[serde(default)]
    witness: Option<PathBuf>,
}

/// What the writer and its runs know.
#[derive(Debug, Clone)]
pub struct Common {
    pub id: String,
    pub dir: PathBuf,
    pub defect: Option<Defect>,
}

impl Common {
    pub fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn rejected(&self, why: impl Into<String>) -> WriterError {
        WriterError::rejected(&self.id, why)
    }
}

fn build(config: WriterConfig) -> Result<Box<dyn Writer>, SettingsError> {
    let Settings { dir, defect, witness } = config.settings()?;
    if let Some(witness) = witness {
        let file = fs::File::open(witness).unwrap();
        flock(&file, FlockOperation::LockShared).unwrap();
        std::mem::forget(file);
    }
    Ok(Box::new(LedgerWriter(Common { id: config.id, dir, defect })))
}

struct LedgerWriter(Common);

impl LedgerWriter {
    fn component(&self, kind: ComponentKind, name: &str, files: &[(&str, &str)]) -> Component {
        let set = |(folder, pattern): &(&str, &str)| FileSet {
            path: if folder.is_empty() { self.0.dir.clone() } else { self.0.dir.join(folder) },
            pattern: (*pattern).to_owned(),
            recursive: false,
            optional: false,
            role: FileRole::Data,
        };
        Component {
            kind,
            path: String::new(),
            name: name.to_owned(),
            caption: String::new(),
            selectable: true,
            selectable_for_restore: true,
            held: kind == ComponentKind::Database,
            dependencies: vec![],
            files: files.iter().map(set).collect(),
            exclude: vec![],
            keys: vec![],
        }
    }

    fn components(&self) -> Vec<Component> {
        let mut book = vec![("", "book"), ("", "archive"), ("", "accounts")];
        if self.0.has(Defect::ForgetsAFile) {
            book.pop();
        }
        if self.0.has(Defect::KeyInTheFiles) {
            book.push(("", "ke?"));
        }
        let key = KeyFile { path: self.0.file("key"), purpose: "ledger key".into(), certificate: None };
        let logs = self.component(ComponentKind::FileGroup, "logs", &[("logs", "*.log")]);
        let mut components = vec![
            self.component(ComponentKind::Database, "book", &book),
            logs.clone(),
            Component { keys: vec![key], ..self.component(ComponentKind::Keys, "keys", &[]) },
        ];
        if self.0.has(Defect::NamesAComponentTwice) {
            components.push(logs);
        }
        components
    }
}

#[async_trait]
impl Writer for LedgerWriter {
    async fn identify(&self) -> Result<WriterMetadata, WriterError> {
        if self.0.has(Defect::TouchesItsFiles) {
            fs::write(self.0.file("accounts"), super::app::ACCOUNTS).unwrap();
        }
        if self.0.has(Defect::ReplacesTheLockFile) {
            fs::remove_file(self.0.file("lock")).unwrap();
            fs::write(self.0.file("lock"), "").unwrap();
        }
        match self.0.defect {
            Some(Defect::IdentifyHangs) => tokio::time::sleep(Duration::from_secs(3600)).await,
            Some(Defect::IdentifyBlocks) => std::thread::sleep(Duration::from_secs(3600)),
            Some(Defect::IdentifyPanics) => panic!("as planted"),
            Some(Defect::IdentifyDies) => std::process::exit(3),
            _ => {}
        }
        let version =
            if self.0.has(Defect::SaysItsPid) { std::process::id().to_string() } else { "1".into() };
        Ok(WriterMetadata {
            schema: METADATA_SCHEMA.into(),
            writer_type: LEDGER.name.into(),
            id: self.0.id.clone(),
            name: "ledger".into(),
            version,
            usage: Usage::UserData,
            source: DataSource::NonTransactedDb,
            restore: RestorePolicy {
                method: RestoreMethod::StopRestoreStart,
                rank: RestoreRank::Applications,
                service: None,
            },
            freeze_level: FreezeLevel::BackEnd,
            freeze_budget_ms: None,
            busy_timeout_ms: None,
            backup_types: BackupTypes { incremental: true, ..BackupTypes::default() },
            capabilities: Capabilities {
                freeze: !self.0.has(Defect::HoldsWithoutDeclaringIt),
                // Relays pass no descriptors.
                stream: !self.0.has(Defect::HasMoreThanItDeclares) && !super::relay::relayed(self.0.defect),
                logs: true,
                keys: true,
                recover: true,
                post_restore: true,
            },
            components: self.components(),
            warnings: vec![],
        })
    }

    async fn begin_backup(&self, request: BackupRequest) -> Result<Box<dyn BackupParticipant>, WriterError> {
        if self.0.has(Defect::RefusesItsOwnStamps) && !request.previous_stamps.is_empty() {
            return Err(self.0.rejected("these stamps are of another history"));
        }
        let (common, declares_stream) = (self.0.clone(), self.identify().await?.capabilities.stream);
        let all = self.components().iter().map(|component| component.reference()).collect();
        Ok(Box::new(Backup { common, all, declares_stream, request, hold: Hold::default(), was_held: false }))
    }

    async fn begin_restore(&self, _: RestoreRequest) -> Result<Box<dyn RestoreParticipant>, WriterError> {
        Ok(Box::new(Restore::new(self.0.clone())))
    }
}

struct Backup {
    common: Common,
    all: Vec<ComponentRef>,
    declares_stream: bool,
    request: BackupRequest,
    hold: Hold,
    was_held: bool,
}

impl Backup {
    fn has(&self, defect: Defect) -> bool {
        self.common.has(defect)
    }

    fn truncate(&self, names: &[String]) {
        for name in names {
            let _ = fs::remove_file(self.common.file("logs").join(name));
        }
    }

    fn remove_oldest(&self) {
        self.truncate(&["1.log".to_owned()]);
    }
}

#[async_trait]
impl BackupParticipant for Backup {
    async fn prepare_backup(&mut self, _: &PhaseContext) -> Result<Prepared, WriterError> {
        Ok(Prepared { backup_type: self.request.backup_type, warnings: vec![] })
    }

    async fn prepare_snapshot(&mut self, _: &PhaseContext) -> Result<(), WriterError> {
        Ok(())
    }

    async fn freeze(&mut self, ctx: &FreezeContext) -> Result<Mark, WriterError> {
        self.hold.take(&self.common, ctx.budget).await?;
        self.was_held = true;
        Ok(Mark { position: "the end of the book".into(), ..Mark::default() })
    }

    async fn thaw(&mut self) -> Result<Thawed, WriterError> {
        if self.has(Defect::ThawHangs) && self.was_held {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        let held = self.hold.is_held();
        if !held && self.was_held && self.has(Defect::SecondThawFails) {
            return Err(self.common.rejected("there is nothing to thaw any more"));
        }
        if !self.was_held && self.has(Defect::EarlyThawFails) {
            return Err(self.common.rejected("thaw was called before freeze"));
        }
        if !self.has(Defect::ThawForgets) {
            self.hold.release();
        }
        let silent = self.has(Defect::ThawSaysThatNothingWasHeld);
        Ok(if held && !silent { Thawed::Released } else { Thawed::WasNotHeld })
    }

    async fn post_snapshot(&mut self, ctx: &ShadowContext) -> Result<PostSnapshot, WriterError> {
        if self.has(Defect::TruncatesEarly) {
            self.remove_oldest();
        }
        if self.has(Defect::RefreshesTheCopy) {
            let book = self.common.file("book");
            fs::copy(&book, ctx.locate(&book).unwrap()).unwrap();
        }
        let all = self.has(Defect::StampsAll);
        let stamped = if all { &self.all } else { &self.request.components };
        let mut stamps: std::collections::BTreeMap<_, _> =
            stamped.iter().map(|component| (component.full_name(), "1".to_owned())).collect();
        if self.has(Defect::StampsTheUnknown) {
            stamps.insert("nobody".into(), "1".into());
        }
        Ok(PostSnapshot { stamps, warnings: vec![] })
    }

    async fn backup_complete(&mut self, outcome: &BackupOutcome) -> Result<Truncated, WriterError> {
        let logs = outcome.stored_logs.clone();
        if self.has(Defect::TruncatesAfterACopy) && outcome.backup_type == BackupType::Copy {
            self.remove_oldest();
        }
        if self.has(Defect::TruncatesAll) && !logs.is_empty() {
            self.truncate(&["1.log", "2.log", "3.log"].map(str::to_owned));
        } else if !self.has(Defect::ClaimsToHaveTruncated) {
            self.truncate(&logs);
        }
        Ok(Truncated { logs })
    }

    async fn abort(&mut self) -> Result<(), WriterError> {
        if self.has(Defect::AbortNeedsAHold) && !self.hold.is_held() {
            return Err(self.common.rejected("there is nothing to give up"));
        }
        if self.has(Defect::TruncatesWhenGivenUp) {
            self.remove_oldest();
        }
        if !self.has(Defect::AbortForgets) {
            self.hold.release();
        }
        Ok(())
    }

    async fn seal_keys(&mut self, recipients: &[String]) -> Result<Vec<SealedKey>, WriterError> {
        let path = self.common.file("key");
        let mut plain = fs::read(&path).unwrap();
        let recipients = self.recipients(recipients, &plain)?;
        if self.has(Defect::KeyOnStandardError) {
            std::io::Write::write_all(&mut std::io::stderr(), &plain).unwrap();
        }
        if self.has(Defect::SealsSomethingElse) {
            plain.truncate(10);
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        Ok(vec![SealedKey {
            component: ComponentRef { path: String::new(), name: "keys".into() },
            sealed: seal(&plain, &recipients),
            path,
            purpose: "ledger key".into(),
            fingerprint: "SHA256:of-the-ledger".into(),
            proof: KeySeal::NotProved { why: "it has no certificate".into() },
            mode: if self.has(Defect::SealsAsReadableByAll) { 0o644 } else { mode },
            uid: 0,
            gid: 0,
        }])
    }

    async fn list_streams(&mut self) -> Result<Vec<StreamFile>, WriterError> {
        if !self.declares_stream && !self.has(Defect::HasMoreThanItDeclares) {
            return Err(WriterError::unsupported(&self.common.id, "streams"));
        }
        let component = ComponentRef { path: String::new(), name: "book".into() };
        let path = self.common.file("archive");
        let size_hint = fs::metadata(&path).unwrap().len();
        Ok(vec![StreamFile { name: "archive".into(), component, path, size_hint }])
    }

    async fn open_stream(&mut self, name: &str) -> Result<Stream, WriterError> {
        if !self.declares_stream || name != "archive" {
            return Err(WriterError::unsupported(&self.common.id, format!("the stream `{name}`")));
        }
        if !self.has(Defect::CutsAStreamShort) {
            return Ok(Stream { fd: fs::File::open(self.common.file("archive")).unwrap().into() });
        }
        let whole = fs::read(self.common.file("archive")).unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        // Fits into a pipe.
        std::io::Write::write_all(&mut writer, &whole[..whole.len() - 1]).unwrap();
        Ok(Stream { fd: reader.into() })
    }

    async fn close_stream(&mut self, name: &str, bytes: u64) -> Result<(), WriterError> {
        if !self.declares_stream {
            return Err(WriterError::unsupported(&self.common.id, format!("the stream `{name}`")));
        }
        let mut whole = fs::metadata(self.common.file("archive")).unwrap().len();
        if self.has(Defect::CutsAStreamShort) {
            whole -= 1;
        }
        if bytes == whole || self.has(Defect::TakesAnyCount) {
            return Ok(());
        }
        Err(self.common.rejected(format!("`{name}` has {whole} bytes, and {bytes} were read")))
    }

    async fn list_logs(&mut self) -> Result<Vec<LogFile>, WriterError> {
        if self.has(Defect::HasLessThanItDeclares) {
            return Err(WriterError::unsupported(&self.common.id, "logs"));
        }
        let logs = (1..=3).map(|generation| {
            let name = format!("{generation}.log");
            LogFile { path: self.common.file("logs").join(&name), name, generation }
        });
        Ok(logs.filter(|log| log.path.exists()).collect())
    }
}

impl Backup {
    fn recipients(&self, texts: &[String], plain: &[u8]) -> Result<Vec<age::x25519::Recipient>, WriterError> {
        let fails =
            |why: String| Err(WriterError::Key { writer: self.common.id.clone(), cause: Cause::new(why) });
        let mut recipients = Vec::new();
        for text in texts {
            match text.parse() {
                Ok(recipient) => recipients.push(recipient),
                Err(_) if self.has(Defect::KeyInAnError) => {
                    return fails(format!("cannot seal {} to `{text}`", String::from_utf8_lossy(plain)));
                }
                Err(_) => return fails(format!("`{text}` is no recipient")),
            }
        }
        if recipients.is_empty() && self.has(Defect::SealsForNobody) {
            recipients.push(age::x25519::Identity::generate().to_public());
        }
        if recipients.is_empty() {
            return fails("there is no recipient".into());
        }
        if self.has(Defect::SealsForTheFirst) {
            recipients.truncate(1);
        }
        Ok(recipients)
    }
}

fn seal(plain: &[u8], recipients: &[age::x25519::Recipient]) -> Vec<u8> {
    let recipients = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
    let mut sealed = Vec::new();
    let mut writer = age::Encryptor::with_recipients(recipients).unwrap().wrap_output(&mut sealed).unwrap();
    std::io::Write::write_all(&mut writer, plain).unwrap();
    writer.finish().unwrap();
    sealed
}

/// The path of the ledger's file `name` in a copy.
pub fn in_copy(staged: &StagedFiles, path: &Path) -> PathBuf {
    staged.locate(path).unwrap()
}
