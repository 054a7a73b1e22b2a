//! Reads `/proc/self/mountinfo`: one value per line, escapes undone, everything bounded.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::error::VolumeError;

const TABLE: &str = "/proc/self/mountinfo";
/// The kernel allows 100,000 mounts in a namespace unless told otherwise; lines are rarely above 300 bytes.
const MAX_BYTES: usize = 64 << 20;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What `statx` calls the mount id.
    pub id: u64,
    /// The mount it is mounted on.
    pub parent: u64,
    /// `major:minor` of the superblock. On btrfs no file has this number: each subvolume has its own.
    pub device: String,
    /// Which folder of the filesystem is mounted; not `/` for a bind mount or a btrfs subvolume.
    pub root: PathBuf,
    /// Where.
    pub mount_point: PathBuf,
    /// Options of this mount, separated by commas.
    pub options: String,
    /// `ext4`, `btrfs`, `overlay`, `fuse.sshfs`, …
    pub fs_type: String,
    /// The device, share or name that was mounted.
    pub source: String,
    /// Options of the filesystem, separated by commas.
    pub super_options: String,
}

impl Mount {
    /// Whether nothing can be written through this mount.
    pub fn read_only(&self) -> bool {
        [&self.options, &self.super_options].iter().any(|o| o.split(',').any(|o| o == "ro"))
    }
}

/// The mounts of this process's namespace, in the kernel's order.
///
/// # Errors
/// [`VolumeError::Io`], [`VolumeError::TooMany`], [`VolumeError::MountTable`].
pub fn read() -> Result<Vec<Mount>, VolumeError> {
    let fail = |source| VolumeError::Io { action: "read", path: TABLE.into(), source };
    let mut text = Vec::new();
    let table = std::fs::File::open(TABLE).map_err(fail)?;
    table.take(MAX_BYTES as u64 + 1).read_to_end(&mut text).map_err(fail)?;
    if text.len() > MAX_BYTES {
        return Err(VolumeError::TooMany { path: TABLE.into(), what: "bytes", limit: MAX_BYTES });
    }
    parse(&text)
}

/// The mounts that `text` describes.
///
/// # Errors
/// [`VolumeError::MountTable`] with the line that is none.
pub fn parse(text: &[u8]) -> Result<Vec<Mount>, VolumeError> {
    text.split(|b| *b == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
        .map(|(at, line)| {
            parse_line(line).map_err(|problem| VolumeError::MountTable { line: at + 1, problem })
        })
        .collect()
}

// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
// The fields after the sixth are optional and end with a single dash.
fn parse_line(line: &[u8]) -> Result<Mount, &'static str> {
    let mut fields = line.split(|b| *b == b' ');
    let mut next = |what| fields.next().ok_or(what);
    let id = number(next("no mount id")?).ok_or("mount id is no number")?;
    let parent = number(next("no parent id")?).ok_or("parent id is no number")?;
    let device = text(next("no device number")?);
    let root = path(next("no root")?);
    let mount_point = path(next("no mount point")?);
    let options = text(next("no options")?);
    if !mount_point.is_absolute() {
        return Err("mount point is not absolute");
    }
    if !device.split_once(':').is_some_and(|(a, b)| [a, b].iter().all(|n| n.parse::<u32>().is_ok())) {
        return Err("device is not major:minor");
    }
    while next("no dash before the type")? != b"-" {}
    let fs_type = text(next("no type")?);
    let source = text(next("no source")?);
    // Older kernels leave the last field out where a filesystem has no options.
    let super_options = fields.next().map(text).unwrap_or_default();
    Ok(Mount { id, parent, device, root, mount_point, options, fs_type, source, super_options })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

fn path(field: &[u8]) -> PathBuf {
    OsString::from_vec(unescape(field)).into()
}

/// Undoes `\040` and its kind: space, tab, newline, backslash and `#` are written in octal.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = |b: &u8| (b'0'..=b'7').contains(b).then(|| u16::from(b - b'0'));
        let code = match tail {
            [a, b, c, ..] if byte == b'\\' => match (octal(a), octal(b), octal(c)) {
                (Some(a), Some(b), Some(c)) => u8::try_from(a * 64 + b * 8 + c).ok(),
                _ => None,
            },
            _ => None,
        };
        out.push(code.unwrap_or(byte));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_optional_fields_and_escapes_is_understood() {
        let line = br"43 27 0:39 /sub\040vol /mnt/a\134b\011c ro,relatime shared:7 master:1 - btrfs /dev/x\040y rw,subvolid=5";
        let mounts = parse(line).unwrap();
        assert_eq!(mounts.len(), 1);
        let m = &mounts[0];
        assert_eq!((m.id, m.parent, m.device.as_str()), (43, 27, "0:39"));
        assert_eq!(m.root, PathBuf::from("/sub vol"));
        assert_eq!(m.mount_point, PathBuf::from("/mnt/a\\b\tc"));
        assert_eq!((m.fs_type.as_str(), m.source.as_str()), ("btrfs", "/dev/x y"));
        assert!(m.read_only());
    }

    #[test]
    fn an_empty_source_does_not_shift_the_fields() {
        let m = &parse(b"1 2 0:1 / /x rw - tmpfs  ro,size=4k\n").unwrap()[0];
        assert_eq!((m.source.as_str(), m.super_options.as_str()), ("", "ro,size=4k"));
    }

    #[test]
    fn what_is_no_mount_line_is_named_by_its_number_and_never_panics() {
        for bad in
            ["x", "1 2 0:1 / /x rw", "1 2 0:1 / /x rw - ", "a 2 0:1 / /x rw - t s", "1 2 zero / /x rw - t s"]
        {
            let table = format!("1 2 0:1 / / rw - tmpfs none rw\n{bad}\n");
            assert!(matches!(parse(table.as_bytes()), Err(VolumeError::MountTable { line: 2, .. })), "{bad}");
        }
        assert_eq!(unescape(br"\777\0\12"), br"\777\0\12");
    }

    #[test]
    fn this_machines_own_table_is_understood() {
        let mounts = read().unwrap();
        assert!(mounts.iter().any(|m| m.mount_point.as_os_str() == "/"));
    }
}
