//! A directory store: entries and groups in a SQLite database in rollback-journal mode.
//!
//! An entry and its membership are one transaction. Each entry names a certificate that the CA had acknowledged before:
//! in a set of one instant, every such certificate is there too.

use rusqlite::{Connection, TransactionBehavior, params};
use serde_json::json;

use super::{AppError, Application, Written, create_database, integer, open_database};
use crate::demo::ack::{self, digest};
use crate::demo::durable;
use crate::demo::places::{CA, DIRECTORY, Places};

const SCHEMA: &str = "
    PRAGMA journal_mode = DELETE;
    CREATE TABLE entries (
        dn         TEXT PRIMARY KEY,
        number     INTEGER UNIQUE,
        attributes TEXT NOT NULL,
        begun_ns   INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE members (
        group_dn  TEXT NOT NULL REFERENCES entries (dn),
        member_dn TEXT NOT NULL REFERENCES entries (dn),
        PRIMARY KEY (group_dn, member_dn)
    ) STRICT;";

/// People of one group.
const GROUP_SIZE: u64 = 50;

/// A running directory.
pub(super) struct Directory {
    places: Places,
    connection: Connection,
}

pub(super) fn create(places: &Places) -> Result<(), AppError> {
    let folder = places.application(DIRECTORY);
    durable::private_folder(&folder).map_err(AppError::io("create", &folder))?;
    create_database(DIRECTORY, &places.directory_database(), SCHEMA).map(drop)
}

impl Directory {
    pub(super) fn open(places: &Places) -> Result<Self, AppError> {
        let connection = open_database(DIRECTORY, &places.directory_database())?;
        Ok(Self { places: places.clone(), connection })
    }
}

impl Application for Directory {
    fn next(&self) -> Result<u64, AppError> {
        self.connection
            .query_row("SELECT coalesce(max(number), 0) + 1 FROM entries", [], |row| row.get::<_, i64>(0))
            .map(i64::unsigned_abs)
            .map_err(AppError::database(DIRECTORY))
    }

    fn write(&mut self, n: u64, begun_ns: u64) -> Result<Written, AppError> {
        let dn = format!("uid=u{n:06},ou=people,dc=demo,dc=example");
        let group = format!("cn=team-{:04},ou=groups,dc=demo,dc=example", n / GROUP_SIZE);
        let attributes = json!({
            "objectClass": ["inetOrgPerson"],
            "cn": format!("Person {n}"),
            "mail": format!("u{n:06}@demo.example"),
            "certificateSerial": ack::latest(&self.places.acks(), CA).map(|ack| ack.id),
        })
        .to_string();

        let failed = AppError::database(DIRECTORY);
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
        transaction
            .execute(
                "INSERT INTO entries (dn, number, attributes, begun_ns) VALUES (?, ?, ?, ?)",
                params![dn, integer(n), attributes, integer(begun_ns)],
            )
            .map_err(&failed)?;
        transaction
            .execute(
                "INSERT INTO entries (dn, attributes, begun_ns) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                params![group, json!({"objectClass": ["groupOfNames"]}).to_string(), integer(begun_ns)],
            )
            .map_err(&failed)?;
        transaction
            .execute("INSERT INTO members (group_dn, member_dn) VALUES (?, ?)", params![group, dn])
            .map_err(&failed)?;
        transaction.commit().map_err(&failed)?;
        Ok(Written { digest: digest(&[dn.as_bytes(), attributes.as_bytes()]), id: dn })
    }
}
