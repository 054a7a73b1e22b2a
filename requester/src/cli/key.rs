//! `key identity`: makes the identity to which keys are sealed.

use crate::failure::{Exit, Failure, NOTHING_CHANGED};
use holdfast_store_keys::RecoveryIdentity;
use serde_json::json;

use super::args::KeyCommand;
use super::context::{Context, blocking, first_line};

pub async fn run(context: &Context, command: KeyCommand) -> Result<(), Failure> {
    match command {
        KeyCommand::Identity { output, passphrase_file } => {
            let passphrase = zeroize::Zeroizing::new(first_line(&passphrase_file, "passphrase")?);
            let path = output.clone();
            let made = blocking(move || {
                let identity = RecoveryIdentity::generate();
                identity.save_encrypted(&path, &passphrase).map(|()| identity.recipient().to_string())
            })
            .await?;
            let recipient = made.map_err(|error| {
                let what = format!("no identity was written to {}", output.display());
                Failure::new(Exit::Usage, what, error, NOTHING_CHANGED)
            })?;
            context.output.line(&recipient);
            context.output.note(format!(
                "Put this line into `recipients` of [recovery]. The private half is in {}: move it off this machine, \
                 keep a second copy, and keep its passphrase elsewhere. LOST IDENTITY OR PASSPHRASE = LOST KEYS.",
                output.display()
            ));
            context.output.document(&json!({
                "schema": "holdfast.identity/1", "recipient": recipient, "file": output,
            }));
            Ok(())
        }
    }
}
