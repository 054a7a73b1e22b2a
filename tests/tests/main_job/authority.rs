//! cfssl and django-ca behind one face: made, configured as a writer, loaded, killed, and asked again after a restore.
//! Owns: what differs between the two. Asserts nothing.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    time::Duration,
};

use holdfast_tests::{
    FixtureError, Journal,
    cfssl::Cfssl,
    django_ca::DjangoCa,
    load::Load,
    process::{command, run},
    require::deps_dir,
    tree::walk,
};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use x509_cert::{
    Certificate,
    der::{Decode, EncodePem, pem::LineEnding},
};

/// Which certificate authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    Cfssl,
    DjangoCa,
}

/// How the writer learns where everything lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settings {
    /// From the installation's own configuration.
    Discovered,
    /// Named path by path.
    Plain,
}

/// A certificate authority's folder and what was true of it when it was made. Outlives the folder.
#[derive(Debug, Clone)]
pub struct Site {
    pub product: Product,
    pub dir: PathBuf,
    /// django-ca's name of its CA; empty for cfssl.
    pub serial: String,
    /// The CA's certificate, kept outside of the folder.
    pub ca: PathBuf,
    /// Owner and mode of everything in the folder that a backup must bring back, by relative path.
    pub owners: BTreeMap<PathBuf, (u32, u32, u32)>,
    /// Every secret in the folder: its file, and the bytes.
    pub secrets: Vec<Secret>,
    /// The number of the last CRL before the backup; django-ca only.
    pub crl_number: u64,
    /// Certificates that were there from the start: django-ca makes one for its OCSP responder.
    pub own: BTreeMap<String, String>,
}

/// Bytes that must never lie in a set unsealed.
#[derive(Debug, Clone)]
pub struct Secret {
    pub file: PathBuf,
    pub what: String,
    pub bytes: Vec<u8>,
}

/// A certificate authority that is there and can be used.
#[derive(Debug)]
pub enum Authority {
    Cfssl(Cfssl),
    DjangoCa(DjangoCa),
}

impl Site {
    /// Makes a certificate authority in `dir`, which must not exist, with a CRL in `crl/`; it belongs to user and
    /// group `owner`. Things that must outlive it are put into `aside`.
    pub fn create(
        product: Product,
        dir: &Path,
        journal: Journal,
        owner: u32,
        aside: &Path,
    ) -> Result<(Self, Authority), FixtureError> {
        let authority = match product {
            Product::Cfssl => Authority::Cfssl(Cfssl::create(dir, journal)?),
            Product::DjangoCa => Authority::DjangoCa(DjangoCa::create(dir, journal)?),
        };
        let dir = dir.canonicalize().expect("the CA's folder");
        let name = dir.file_name().expect("a name").to_string_lossy().into_owned();
        let ca = aside.join(format!("{name}-ca.pem"));
        fs::create_dir(dir.join("crl")).expect("make the CRL's folder");
        let mut site = Self {
            product,
            serial: String::new(),
            ca,
            owners: BTreeMap::new(),
            secrets: Vec::new(),
            crl_number: 0,
            own: BTreeMap::new(),
            dir,
        };
        match &authority {
            Authority::Cfssl(cfssl) => {
                fs::copy(cfssl.certificate(), &site.ca).expect("keep the CA's certificate");
                // Serials to revoke: one that was never issued.
                let serials = aside.join("serials");
                fs::write(&serials, "1234\n").expect("write the serials");
                let gencrl = [&serials, &cfssl.certificate(), &cfssl.key()];
                let crl = run(command("cfssl").arg("gencrl").args(gencrl), Duration::from_secs(30))?;
                fs::write(site.dir.join("crl/ca.crl.b64"), crl.stdout).expect("write the CRL");
                site.add_key(&cfssl.key())?;
            }
            Authority::DjangoCa(django) => {
                site.serial = django.serial().to_owned();
                fs::write(&site.ca, django.certificate()?).expect("keep the CA's certificate");
                fs::copy(&site.ca, site.dir.join("ca.pem")).expect("the CA's certificate");
                let crl = django.dump_crl()?;
                site.crl_number = holdfast_tests::openssl::crl(&site.ca, &crl)?.number.expect("a CRL number");
                fs::write(site.dir.join("crl/ca.crl.pem"), crl).expect("write the CRL");
                site.add_key(&django.key())?;
                // Beside it the OCSP responder's, under the same name; encrypted with a passphrase of its own.
                let ocsp = site.dir.join("keys/ocsp").join(django.key().file_name().expect("a name"));
                let (bytes, what) = (fs::read(&ocsp).expect("the OCSP key"), "the OCSP key".to_owned());
                site.secrets.push(Secret { file: ocsp, what, bytes });
                site.own = site.certificates();
                let settings = fs::read_to_string(django.settings()).expect("settings.py");
                let secret = settings.lines().find_map(|line| line.strip_prefix("SECRET_KEY = \""));
                let secret = secret.expect("a SECRET_KEY").trim_end_matches('"').as_bytes().to_vec();
                let (file, what) = (django.settings(), "SECRET_KEY".to_owned());
                site.secrets.push(Secret { file, what, bytes: secret });
            }
        }
        give_to(&site.dir, owner);
        site.owners = owners(&site.dir);
        // Not part of any component, or only there while the application runs.
        let leave = |path: &PathBuf| {
            let name = path.to_string_lossy();
            !name.ends_with("-wal") && !name.ends_with("-shm") && name != "ca-csr.json"
        };
        site.owners.retain(|path, _| leave(path));
        if product == Product::DjangoCa {
            // A copy for the plain settings; discovery takes the certificate from the database.
            site.owners.remove(Path::new("ca.pem"));
        }
        Ok((site, authority))
    }

    /// The same site at another place.
    pub fn at(&self, dir: PathBuf) -> Self {
        Self { dir, ..self.clone() }
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.dir.join(match self.product {
            Product::Cfssl => "certs.db",
            Product::DjangoCa => "db.sqlite3",
        })
    }

    /// Files that hold private keys.
    pub fn key_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = self.secrets.iter().map(|secret| secret.file.clone()).collect();
        files.sort();
        files.dedup();
        files
    }

    /// The `[[writer]]` for it.
    pub fn writer(&self, id: &str, settings: Settings) -> String {
        let path = |relative: &str| Value::from(self.dir.join(relative).to_string_lossy()).to_string();
        let mut text = format!("[[writer]]\nid = \"{id}\"\ntype = \"certificate-authority\"\n");
        let lines: Vec<(&str, String)> = match (settings, self.product) {
            (Settings::Discovered, Product::Cfssl) => vec![
                ("discover.cfssl", path("db.json")),
                ("discover.ca", path("ca.pem")),
                ("discover.ca-key", path("ca-key.pem")),
                ("discover.config", path("config.json")),
            ],
            (Settings::Discovered, Product::DjangoCa) => {
                let python = deps_dir().join("django-ca/bin/python");
                let python = Value::from(python.to_string_lossy()).to_string();
                let project = Value::from(self.dir.to_string_lossy()).to_string();
                vec![("discover.django-ca", project), ("discover.python", python)]
            }
            (Settings::Plain, Product::Cfssl) => vec![
                ("database", path("certs.db")),
                ("certificate", path("ca.pem")),
                ("private-keys", format!("[{}]", path("ca-key.pem"))),
                ("configuration", format!("[{}, {}]", path("config.json"), path("db.json"))),
            ],
            (Settings::Plain, Product::DjangoCa) => {
                let key = path(&format!("keys/ca/{}.key", self.serial));
                let ocsp = path(&format!("keys/ocsp/{}.key", self.serial));
                let settings = path("project/settings.py");
                vec![
                    ("database", path("db.sqlite3")),
                    ("certificate", path("ca.pem")),
                    (
                        "private-keys",
                        // The OCSP responder's certificate lies in the database only.
                        format!(
                            "[{key}, {{ path = {ocsp}, opaque = true }}, {{ path = {settings}, opaque = true }}]"
                        ),
                    ),
                    ("configuration", format!("[{}, {}]", path("manage.py"), path("project"))),
                ]
            }
        };
        for (key, value) in lines {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{key} = {value}");
        }
        text + &format!("dynamic-files = [{}]\n\n", path("crl"))
    }

    /// The certificate authority at this place, as it is found there: started, if it is a server.
    pub fn open(&self) -> Result<Authority, FixtureError> {
        match self.product {
            Product::Cfssl => {
                let mut cfssl = Cfssl::open(&self.dir);
                cfssl.start()?;
                Ok(Authority::Cfssl(cfssl))
            }
            Product::DjangoCa => DjangoCa::open(&self.dir).map(Authority::DjangoCa),
        }
    }

    /// All certificates in the database, by serial as the product writes it; as PEM. Asks SQLite, not the product.
    pub fn certificates(&self) -> BTreeMap<String, String> {
        match self.product {
            Product::Cfssl => {
                Cfssl::open(&self.dir).certificates().expect("certificates").into_iter().collect()
            }
            Product::DjangoCa => {
                let database = read_only(&self.database());
                let mut rows =
                    database.prepare("SELECT serial, pub FROM django_ca_certificate").expect("a table");
                let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?));
                let rows = rows.query_map([], row).expect("rows");
                rows.map(|row| row.expect("a row")).map(|(serial, der)| (serial, pem(&der))).collect()
            }
        }
    }

    /// What `PRAGMA integrity_check` says.
    pub fn integrity(&self) -> String {
        let database = read_only(&self.database());
        database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("integrity_check")
    }

    fn add_key(&mut self, file: &Path) -> Result<(), FixtureError> {
        let content = fs::read(file).expect("the key");
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        let mut add = |what: &str, bytes: Vec<u8>| {
            self.secrets.push(Secret { file: file.to_owned(), what: format!("{what} of {name}"), bytes });
        };
        let openssl = |arguments: &[&str]| {
            run(command("openssl").args(["pkey", "-in"]).arg(file).args(arguments), Duration::from_secs(30))
        };
        // cfssl keeps PEM, django-ca DER: both are searched for, whichever it is.
        let as_pem = openssl(&[])?.text();
        let of_file = String::from_utf8(content.clone()).unwrap_or_else(|_| {
            add("the file", content);
            String::new()
        });
        let lines = as_pem.lines().chain(of_file.lines());
        for line in lines.filter(|line| !line.starts_with("-----") && line.len() >= 20) {
            add("a line", line.as_bytes().to_vec());
        }
        add("the DER", openssl(&["-outform", "DER"])?.stdout);
        // The secret number itself, however it may be wrapped.
        let shown = openssl(&["-noout", "-text"])?.text();
        let digits = shown.split("priv:").nth(1).and_then(|rest| rest.split("pub:").next());
        let digits: String = digits.expect("a private number").split([':', ' ', '\n']).collect();
        let number = (0..digits.len()).step_by(2);
        let number: Vec<u8> =
            number.map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal")).collect();
        let skip = number.iter().take_while(|byte| **byte == 0).count();
        add("the number", number[skip..].to_vec());
        Ok(())
    }
}

impl Authority {
    /// Starts whatever has to run, and issues certificates in a loop until stopped.
    pub fn issue_loop(&mut self, prefix: &str) -> Result<Load, FixtureError> {
        match self {
            Self::Cfssl(cfssl) => {
                if !cfssl.is_serving() {
                    cfssl.start()?;
                }
                cfssl.issue_loop(prefix)
            }
            Self::DjangoCa(django) => django.issue_loop(prefix),
        }
    }
}

/// Owner, group and mode of everything in `dir` and of `dir` itself, by relative path.
pub fn owners(dir: &Path) -> BTreeMap<PathBuf, (u32, u32, u32)> {
    walk(dir)
        .into_iter()
        .map(|path| {
            let found = fs::symlink_metadata(&path).expect("a file that was listed");
            let relative = path.strip_prefix(dir).expect("below the folder").to_owned();
            (relative, (found.uid(), found.gid(), found.permissions().mode() & 0o7777))
        })
        .collect()
}

fn give_to(dir: &Path, owner: u32) {
    if owner != 0 {
        for path in walk(dir) {
            chown(&path, Some(owner), Some(owner)).expect("chown");
        }
    }
}

fn read_only(database: &Path) -> Connection {
    Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("open the database")
}

fn pem(der: &[u8]) -> String {
    Certificate::from_der(der).and_then(|read| read.to_pem(LineEnding::LF)).expect("a certificate")
}
