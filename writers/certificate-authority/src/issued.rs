//! Reads what a CA's database says of its certificates: the CA's own, to prove its keys, and how many it has issued.
//! Knows the tables of cfssl and of django-ca; any other database simply has none of them.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding};
use rusqlite::{Connection, OpenFlags};
use zeroize::Zeroizing;

/// Most CA certificates read, and their total size in bytes.
const MAX_CERTIFICATES: usize = 1000;
const MAX_BYTES: usize = 1024 * 1024;

/// What a copy of a CA's database holds.
#[derive(Clone, Default, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub(crate) struct Issued {
    /// Certificates of the CA itself and of its OCSP responders, in PEM.
    pub(crate) own_certificates: Vec<u8>,
    /// Passphrases of its OCSP keys, each with the key's path within the storage.
    pub(crate) passphrases: Vec<(PathBuf, Zeroizing<Vec<u8>>)>,
    /// Table, and how many certificates it lists.
    pub(crate) issued: Option<(&'static str, u64)>,
    /// How many of them are revoked.
    pub(crate) revoked: u64,
    /// The highest CRL number, where CRLs are numbered in the database.
    pub(crate) crl_number: Option<u64>,
}

/// Reads a private copy that was checked before, so that no hot journal is left. Leaves nothing beside it.
pub(crate) fn read(copy: &Path) -> Result<Issued, rusqlite::Error> {
    let beside = |suffix: &str| {
        let mut name = copy.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    if beside("-wal").exists() {
        let found = open(copy, false).and_then(|connection| read_tables(&connection));
        // SQLite made it to read the log, and a reader may not remove it.
        let _ = std::fs::remove_file(beside("-shm"));
        found
    } else {
        // Without a log nothing has to be made beside it: what is left there would be put in place with it.
        read_tables(&open(copy, true)?)
    }
}

fn open(copy: &Path, immutable: bool) -> Result<Connection, rusqlite::Error> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    if !immutable {
        return Connection::open_with_flags(copy, flags);
    }
    let mut uri = String::from("file:");
    for byte in copy.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            byte => uri.push_str(&format!("%{byte:02x}")),
        }
    }
    Connection::open_with_flags(uri + "?immutable=1", flags | OpenFlags::SQLITE_OPEN_URI)
}

fn read_tables(connection: &Connection) -> Result<Issued, rusqlite::Error> {
    let mut issued = Issued::default();
    if has_table(connection, "django_ca_certificateauthority")? {
        read_django_ca(connection, &mut issued)?;
    } else if has_table(connection, "certificates")?
        && has_column(connection, "certificates", "serial_number")?
    {
        issued.issued = Some(("certificates", count(connection, "SELECT count(*) FROM certificates")?));
        // cfssl stores the status as text in a BLOB column.
        issued.revoked =
            count(connection, "SELECT count(*) FROM certificates WHERE CAST(status AS TEXT) = 'revoked'")?;
    }
    Ok(issued)
}

fn read_django_ca(connection: &Connection, issued: &mut Issued) -> Result<(), rusqlite::Error> {
    let mut statement = connection
        .prepare("SELECT pub FROM django_ca_certificateauthority WHERE length(pub) < 65536 LIMIT ?1")?;
    let mut rows = statement.query([MAX_CERTIFICATES as i64])?;
    while let Some(row) = rows.next()? {
        let der: Vec<u8> = row.get(0)?;
        add_pem(&mut issued.own_certificates, &der);
    }
    // OCSP certificates are issued ones, and their text also lies in the options of their CA.
    if has_column(connection, "django_ca_certificateauthority", "ocsp_key_backend_options")? {
        let mut statement = connection.prepare(
            "SELECT ocsp_key_backend_options ->> '$.certificate.pem', ocsp_key_backend_options ->> '$.private_key.path', \
             ocsp_key_backend_options ->> '$.private_key.password' FROM django_ca_certificateauthority \
             WHERE json_valid(ocsp_key_backend_options) AND length(ocsp_key_backend_options) < 65536 LIMIT ?1",
        )?;
        let mut rows = statement.query([MAX_CERTIFICATES as i64])?;
        while let Some(row) = rows.next()? {
            let pem: Option<String> = row.get(0)?;
            if let Some(pem) = pem.filter(|pem| issued.own_certificates.len() + pem.len() < MAX_BYTES) {
                issued.own_certificates.extend_from_slice(pem.as_bytes());
                issued.own_certificates.push(b'\n');
            }
            let (path, password): (Option<String>, Option<String>) = (row.get(1)?, row.get(2)?);
            let password = password.map(Zeroizing::new).and_then(|text| Base64::decode_vec(&text).ok());
            issued.passphrases.extend(path.map(PathBuf::from).zip(password.map(Zeroizing::new)));
        }
    }
    issued.issued =
        Some(("django_ca_certificate", count(connection, "SELECT count(*) FROM django_ca_certificate")?));
    issued.revoked = count(connection, "SELECT count(*) FROM django_ca_certificate WHERE revoked")?;
    if has_table(connection, "django_ca_certificaterevocationlist")? {
        let highest = "SELECT max(number) FROM django_ca_certificaterevocationlist";
        let number: Option<i64> = connection.query_row(highest, (), |row| row.get(0))?;
        issued.crl_number = number.and_then(|number| u64::try_from(number).ok());
    }
    Ok(())
}

fn add_pem(pem: &mut Vec<u8>, der: &[u8]) {
    if pem.len() + der.len() * 2 > MAX_BYTES {
        return;
    }
    pem.extend_from_slice(b"-----BEGIN CERTIFICATE-----");
    for line in Base64::encode_string(der).as_bytes().chunks(64) {
        pem.push(b'\n');
        pem.extend_from_slice(line);
    }
    pem.extend_from_slice(b"\n-----END CERTIFICATE-----\n");
}

fn has_table(connection: &Connection, name: &str) -> Result<bool, rusqlite::Error> {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    connection.query_row(sql, [name], |row| row.get::<_, i64>(0)).map(|found| found > 0)
}

fn has_column(connection: &Connection, table: &str, column: &str) -> Result<bool, rusqlite::Error> {
    let sql = "SELECT count(*) FROM pragma_table_info(?1) WHERE name = ?2";
    connection.query_row(sql, [table, column], |row| row.get::<_, i64>(0)).map(|found| found > 0)
}

fn count(connection: &Connection, sql: &str) -> Result<u64, rusqlite::Error> {
    let count: i64 = connection.query_row(sql, (), |row| row.get(0))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cfssl_database_is_counted_and_an_unknown_one_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("ce%20rts?.db");
        let database = Connection::open(&path).unwrap();
        database.execute_batch("CREATE TABLE other(a)").unwrap();
        assert_eq!(read(&path).unwrap(), Issued::default());
        database
            .execute_batch(
                "CREATE TABLE certificates (serial_number blob NOT NULL, status blob NOT NULL);
                 INSERT INTO certificates VALUES ('1', 'good'), ('2', CAST('revoked' AS BLOB)), ('3', 'good');",
            )
            .unwrap();
        let found = read(&path).unwrap();
        assert_eq!((found.issued, found.revoked), (Some(("certificates", 3)), 1));
        database.pragma_update(None, "journal_mode", "wal").unwrap();
        database.execute_batch("INSERT INTO certificates VALUES ('4', 'good')").unwrap();
        let copy = folder.path().canonicalize().unwrap().join("copy.db");
        std::fs::copy(&path, &copy).unwrap();
        let beside = |path: &Path, suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
        std::fs::copy(beside(&path, "-wal"), beside(&copy, "-wal")).unwrap();
        assert_eq!(read(&copy).unwrap().issued, Some(("certificates", 4)), "with its log");
        assert!(!beside(&copy, "-shm").exists());
        std::fs::remove_file(beside(&copy, "-wal")).unwrap();
        assert_eq!(read(&copy).unwrap().issued, Some(("certificates", 3)), "without it");
        assert!(!beside(&copy, "-shm").exists() && !beside(&copy, "-wal").exists());
    }

    #[test]
    fn pem_is_what_openssl_would_write() {
        let mut pem = Vec::new();
        add_pem(&mut pem, b"any carnal pleas");
        assert_eq!(
            pem,
            b"-----BEGIN CERTIFICATE-----\nYW55IGNhcm5hbCBwbGVhcw==\n-----END CERTIFICATE-----\n"
        );
        pem.clear();
        add_pem(&mut pem, &[0xff; 49]);
        let lines: Vec<usize> = pem.split(|byte| *byte == b'\n').map(<[u8]>::len).collect();
        assert_eq!(lines, [27, 64, 4, 25, 0]);
    }
}
