//! Both plain writers keep the rules for writers, each with applications as they are.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod application;

/// Not a test: the application of the others.
#[test]
#[ignore = "the application of the other tests"]
fn application_process() {
    application::serve();
}

mod databases {
    //! An application that writes to two databases at once, one of each journal family.

    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use async_trait::async_trait;
    use holdfast_writer_api::testkit::{Fixture, FixtureError, Poke, Subject, below};
    use holdfast_writer_plain::SQLITE;
    use rusqlite::Connection;
    use tempfile::TempDir;

    use super::application::Application;

    struct Shop {
        place: TempDir,
        running: Option<Application>,
        orders: usize,
    }

    impl Shop {
        async fn start() -> Result<Self, FixtureError> {
            let place = tempfile::tempdir().unwrap();
            for (name, mode) in [("orders.db", "WAL"), ("stock.db", "DELETE")] {
                let database = Connection::open(place.path().join(name)).unwrap();
                database.pragma_update(None, "journal_mode", mode).unwrap();
                database.execute_batch("CREATE TABLE entry (id TEXT PRIMARY KEY)").unwrap();
            }
            let mut shop = Self { place, running: None, orders: 0 };
            assert!(Fixture::start(&mut shop).await?);
            Ok(shop)
        }

        fn file(&self, name: &str) -> PathBuf {
            self.place.path().join(name)
        }
    }

    async fn open(folder: &Path) -> Result<Application, FixtureError> {
        let mut application = Application::start(&folder.join("orders.db"), "application_process").await?;
        let stock = format!("ATTACH '{}' AS stock", folder.join("stock.db").display());
        application.runs(&stock, Duration::from_secs(10)).await?;
        Ok(application)
    }

    /// What both have; one alone would be half an order.
    async fn orders(application: &mut Application) -> Result<Vec<String>, FixtureError> {
        let orders = application.finds("SELECT id FROM main.entry ORDER BY id").await?;
        let stock = application.finds("SELECT id FROM stock.entry ORDER BY id").await?;
        if orders != stock {
            return Err(FixtureError::because(
                "open the shop",
                format!("{orders:?} were ordered, {stock:?} taken"),
            ));
        }
        Ok(orders)
    }

    #[async_trait]
    impl Fixture for Shop {
        fn writer(&self) -> Subject {
            let databases = [self.file("orders.db"), self.file("stock.db")];
            Subject::linked(&SQLITE, serde_json::json!({"databases": databases}))
        }

        async fn poke(&mut self, patience: Duration) -> Result<Poke, FixtureError> {
            let down = || FixtureError::because("write", "the shop is closed");
            let application = self.running.as_mut().ok_or_else(down)?;
            self.orders += 1;
            let id = format!("o{}", self.orders);
            if !application.runs("BEGIN IMMEDIATE", patience).await? {
                return Ok(Poke::Held);
            }
            for database in ["main", "stock"] {
                let insert = format!("INSERT INTO {database}.entry VALUES ('{id}')");
                if !application.runs(&insert, patience).await? {
                    application.runs("ROLLBACK", patience).await?;
                    return Ok(Poke::Held);
                }
            }
            match application.runs("COMMIT", patience).await? {
                true => Ok(Poke::Written(id)),
                false => application.runs("ROLLBACK", patience).await.map(|_| Poke::Held),
            }
        }

        async fn contents(&mut self) -> Result<Vec<String>, FixtureError> {
            match &mut self.running {
                Some(application) => orders(application).await,
                None => orders(&mut open(self.place.path()).await?).await,
            }
        }

        async fn contents_of(&mut self, root: &Path) -> Result<Vec<String>, FixtureError> {
            orders(&mut open(&below(root, self.place.path())).await?).await
        }

        async fn stop(&mut self) -> Result<(), FixtureError> {
            match self.running.take() {
                Some(application) => application.stop().await,
                None => Ok(()),
            }
        }

        async fn start(&mut self) -> Result<bool, FixtureError> {
            if self.running.is_none() {
                self.running = Some(open(self.place.path()).await?);
            }
            Ok(true)
        }
    }

    holdfast_writer_api::conformance!(Shop::start);
}

mod files {
    //! An application that writes files under a lock. Its writer is told of the lock and of the key, or of neither.

    use std::fs::{self, File};
    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant};

    use async_trait::async_trait;
    use holdfast_writer_api::testkit::{Fixture, FixtureError, Poke, Subject, below};
    use holdfast_writer_plain::FILES;
    use rustix::fs::{FlockOperation, flock};
    use tempfile::TempDir;

    struct Site {
        place: TempDir,
        pages: usize,
        up: bool,
        /// Whether the writer knows the lock and the key.
        told: bool,
    }

    impl Site {
        async fn start(told: bool) -> Result<Self, FixtureError> {
            let site = Self { place: tempfile::tempdir().unwrap(), pages: 0, up: true, told };
            let pair = rcgen::generate_simple_self_signed(["www.example.org".to_owned()]).unwrap();
            fs::create_dir_all(site.file("www/pages")).unwrap();
            fs::write(site.file("www/tls.crt"), pair.cert.pem()).unwrap();
            fs::write(site.file("www/tls.key"), pair.signing_key.serialize_pem()).unwrap();
            fs::write(site.file("lock"), "").unwrap();
            Ok(site)
        }

        fn file(&self, name: &str) -> PathBuf {
            self.place.path().join(name)
        }
    }

    /// The pages of the site at `folder`, which serves nothing without its key.
    fn pages(folder: &Path) -> Result<Vec<String>, FixtureError> {
        let failed = |error: std::io::Error| FixtureError::failed("serve the site", &error);
        fs::read(folder.join("www/tls.key")).map_err(failed)?;
        let entries = fs::read_dir(folder.join("www/pages")).map_err(failed)?;
        Ok(entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
    }

    #[async_trait]
    impl Fixture for Site {
        fn writer(&self) -> Subject {
            let key = serde_json::json!({
                "path": self.file("www/tls.key"), "purpose": "TLS key", "certificate": self.file("www/tls.crt"),
            });
            let settings = if self.told {
                serde_json::json!({"paths": [self.file("www")], "lock-file": self.file("lock"), "keys": [key]})
            } else {
                serde_json::json!({"paths": [self.file("www")], "allow-plain-keys": [self.file("www/tls.key")]})
            };
            Subject::linked(&FILES, settings)
        }

        async fn poke(&mut self, patience: Duration) -> Result<Poke, FixtureError> {
            if !self.up {
                return Err(FixtureError::because("write", "the site is down"));
            }
            let (lock, until) = (File::open(self.file("lock")).unwrap(), Instant::now() + patience);
            while flock(&lock, FlockOperation::NonBlockingLockShared).is_err() {
                if Instant::now() >= until {
                    return Ok(Poke::Held);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.pages += 1;
            let page = format!("{}.html", self.pages);
            fs::write(self.file("www/pages").join(&page), "hello").unwrap();
            // Closing would not do while another test starts a process, which has the open file as well.
            flock(&lock, FlockOperation::Unlock).unwrap();
            Ok(Poke::Written(page))
        }

        async fn contents(&mut self) -> Result<Vec<String>, FixtureError> {
            pages(self.place.path())
        }

        async fn contents_of(&mut self, root: &Path) -> Result<Vec<String>, FixtureError> {
            pages(&below(root, self.place.path()))
        }

        async fn stop(&mut self) -> Result<(), FixtureError> {
            self.up = false;
            Ok(())
        }

        async fn start(&mut self) -> Result<bool, FixtureError> {
            self.up = true;
            Ok(true)
        }
    }

    mod with_its_lock_and_key {
        holdfast_writer_api::conformance!(|| super::Site::start(true));
    }

    mod without_a_lock {
        holdfast_writer_api::conformance!(|| super::Site::start(false));
    }
}
