//! Reads the directory's database; every membership and every certificate it names must be there.

use std::collections::HashSet;

use serde_json::Value;

use super::{Check, CountError, Found, Item, open_checked};
use crate::demo::ack::digest;
use crate::demo::places::Places;

pub(super) fn read(places: &Places, serials: &HashSet<String>) -> Result<Found, CountError> {
    let path = places.directory_database();
    let failed = CountError::unreadable::<rusqlite::Error>(&path);
    let (connection, integrity) = open_checked(&path)?;

    let mut members = Check::new("members and their groups exist");
    let mut statement = connection
        .prepare(
            "SELECT member_dn, EXISTS (SELECT 1 FROM entries WHERE dn = group_dn)
                    AND EXISTS (SELECT 1 FROM entries WHERE dn = member_dn AND number IS NOT NULL)
             FROM members",
        )
        .map_err(&failed)?;
    let mut rows = statement.query([]).map_err(&failed)?;
    let mut belonging = HashSet::new();
    while let Some(row) = rows.next().map_err(&failed)? {
        let dn: String = row.get(0).map_err(&failed)?;
        members.note(row.get(1).map_err(&failed)?, || dn.clone());
        belonging.insert(dn);
    }

    let mut grouped = Check::new("entries are in the group they were added with");
    let mut named = Check::new("certificates named by an entry are in the CA's database");
    let mut statement = connection
        .prepare("SELECT dn, attributes, begun_ns FROM entries WHERE number IS NOT NULL")
        .map_err(&failed)?;
    let mut rows = statement.query([]).map_err(&failed)?;
    let mut items = Vec::new();
    while let Some(row) = rows.next().map_err(&failed)? {
        let id: String = row.get(0).map_err(&failed)?;
        let attributes: String = row.get(1).map_err(&failed)?;
        let begun_ns = row.get::<_, i64>(2).map_err(&failed)?.unsigned_abs();
        grouped.note(belonging.contains(&id), || id.clone());
        let parsed: Value = serde_json::from_str(&attributes).unwrap_or_default();
        if let Some(serial) = parsed["certificateSerial"].as_str() {
            named.note(serials.contains(serial), || format!("{id}: {serial}"));
        }
        items.push(Item { digest: digest(&[id.as_bytes(), attributes.as_bytes()]), id, begun_ns });
    }
    Ok(Found { items, checks: vec![integrity, members, grouped, named] })
}
