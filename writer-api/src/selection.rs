//! Which components come along: VSS's rules of selectability, for backup and for restore.
//!
//! An *ancestor* of a component is one whose full name is a leading part of its logical path. A
//! selectable component with descendants defines a *component set*; its members come in *implicitly*.
//!
//! Source: "Working with Selectability and Logical Paths", "Working with Selectability For Restore and
//! Subcomponents", <https://learn.microsoft.com/windows/win32/vss/working-with-selectability-and-logical-paths>.

use std::collections::BTreeSet;

use crate::{Component, ComponentRef};

/// How a component comes to be in a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inclusion {
    /// By itself; it is in the backup document.
    Explicit,
    /// As a member of another's component set; the document does not name it.
    Implicit,
}

/// A choice that the rules do not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectionError {
    /// There is none of that name.
    #[error("there is no component `{name}`; there are: {known}")]
    Unknown {
        /// As asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// It comes and goes with another.
    #[error("component `{name}` cannot be chosen by itself; choose `{instead}`")]
    NotSelectable {
        /// As asked for.
        name: String,
        /// The nearest component that can be chosen.
        instead: String,
    },
}

/// The components of a backup with how they came in, in the order of `components`.
///
/// `chosen` empty means everything that can be chosen at the top. Components that are not selectable
/// and stand under no selectable one come with every backup of their writer.
///
/// # Errors
/// [`SelectionError`] when a chosen one is not there or not selectable.
pub fn for_backup<'c>(
    components: &'c [Component],
    chosen: &[ComponentRef],
) -> Result<Vec<(&'c Component, Inclusion)>, SelectionError> {
    for name in chosen {
        let component = find(components, name)?;
        let free = component.selectable || selectable_ancestors(components, component).next().is_none();
        if !free {
            let instead = selectable_ancestors(components, component).last().map(full).unwrap_or_default();
            return Err(SelectionError::NotSelectable { name: name.to_string(), instead });
        }
    }
    let chosen: BTreeSet<String> = chosen.iter().map(ToString::to_string).collect();
    let wanted = |component: &Component| {
        let top = selectable_ancestors(components, component).next().is_none();
        (component.selectable && (chosen.contains(&full(component)) || (chosen.is_empty() && top)))
            || (!component.selectable && top)
    };
    Ok(components
        .iter()
        .filter_map(|component| {
            // A member whose ancestor is in is never named itself, selectable or not.
            if selectable_ancestors(components, component).any(wanted) {
                Some((component, Inclusion::Implicit))
            } else {
                wanted(component).then_some((component, Inclusion::Explicit))
            }
        })
        .collect())
}

/// The components of a restore from a backup that holds `in_backup`.
///
/// `chosen` empty means all of them. One that came in explicitly can always be chosen, with its set; an
/// implicit one only if it is selectable for restore, again with its set.
///
/// # Errors
/// [`SelectionError`] when a chosen one is not in the backup or cannot be chosen alone.
pub fn for_restore<'c>(
    in_backup: &[(&'c Component, Inclusion)],
    chosen: &[ComponentRef],
) -> Result<Vec<&'c Component>, SelectionError> {
    if chosen.is_empty() {
        return Ok(in_backup.iter().map(|(component, _)| *component).collect());
    }
    for name in chosen {
        let Some((component, how)) = in_backup.iter().find(|(c, _)| c.is(name)) else {
            let known = in_backup.iter().map(|(c, _)| full(c)).collect::<Vec<_>>().join(", ");
            return Err(SelectionError::Unknown { name: name.to_string(), known });
        };
        if *how == Inclusion::Implicit && !component.selectable_for_restore {
            let instead = in_backup
                .iter()
                .filter(|(c, how)| {
                    is_ancestor(c, component) && (*how == Inclusion::Explicit || c.selectable_for_restore)
                })
                .map(|(c, _)| full(c))
                .next_back()
                .unwrap_or_default();
            return Err(SelectionError::NotSelectable { name: name.to_string(), instead });
        }
    }
    Ok(in_backup
        .iter()
        .map(|(component, _)| *component)
        .filter(|component| {
            chosen.iter().any(|name| component.is(name) || is_under(&component.path, &name.full_name()))
        })
        .collect())
}

fn find<'c>(components: &'c [Component], name: &ComponentRef) -> Result<&'c Component, SelectionError> {
    components.iter().find(|c| c.is(name)).ok_or_else(|| SelectionError::Unknown {
        name: name.to_string(),
        known: components.iter().map(full).collect::<Vec<_>>().join(", "),
    })
}

fn selectable_ancestors<'c>(
    components: &'c [Component],
    of: &'c Component,
) -> impl Iterator<Item = &'c Component> {
    components.iter().filter(move |c| c.selectable && is_ancestor(c, of))
}

fn is_ancestor(ancestor: &Component, of: &Component) -> bool {
    is_under(&of.path, &full(ancestor))
}

fn is_under(path: &str, full_name: &str) -> bool {
    path.strip_prefix(full_name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn full(component: &Component) -> String {
    component.reference().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ComponentKind;

    fn component(path: &str, name: &str, selectable: bool, for_restore: bool) -> Component {
        Component {
            kind: ComponentKind::FileGroup,
            path: path.into(),
            name: name.into(),
            caption: String::new(),
            selectable,
            selectable_for_restore: for_restore,
            held: false,
            dependencies: vec![],
            files: vec![],
            exclude: vec![],
            keys: vec![],
        }
    }

    /// The documented example: name, logical path, selectable, selectable for restore, and whether it
    /// is explicit when everything at the top is chosen. (Of `ConfigFiles` one page says implicit; by the
    /// rules it is explicit, since `Executables` is not selectable.)
    const FIXTURE: [(&str, &str, bool, bool, bool); 15] = [
        ("Executables", "", false, false, true),
        ("ConfigFiles", "Executables", false, false, true),
        ("LicenseInfo", "", true, false, true),
        ("Security", "", true, false, true),
        ("UserInfo", "Security", false, false, false),
        ("Certificates", "Security", false, false, false),
        ("writerData", "", true, true, true),
        ("Set1", "writerData", false, true, false),
        ("Set2", "writerData", false, true, false),
        ("Jan", "writerData/Set1", false, false, false),
        ("Dec", "writerData/Set2", false, false, false),
        ("Query", "writerData/QueryLogs", false, false, false),
        ("Usage", "writerData", true, true, false),
        ("Jan", "writerData/Usage", false, false, false),
        ("Dec", "writerData/Usage", false, false, false),
    ];

    fn fixture() -> Vec<Component> {
        FIXTURE.iter().map(|(name, path, s, r, _)| component(path, name, *s, *r)).collect()
    }

    fn names<'c>(components: impl IntoIterator<Item = &'c Component>) -> Vec<String> {
        components.into_iter().map(full).collect()
    }

    fn refs(full_names: &[&str]) -> Vec<ComponentRef> {
        full_names.iter().map(|n| ComponentRef::from_full_name(n)).collect()
    }

    #[test]
    fn everything_at_the_top_gives_the_documented_explicit_components() {
        let components = fixture();
        let chosen = for_backup(&components, &[]).unwrap();
        assert_eq!(chosen.len(), FIXTURE.len(), "every component comes along");
        for ((component, how), (.., explicit)) in chosen.iter().zip(FIXTURE) {
            assert_eq!(*how == Inclusion::Explicit, explicit, "{}", full(component));
        }
    }

    #[test]
    fn a_selectable_member_is_explicit_when_its_ancestor_is_not_chosen_and_drags_its_own_set() {
        let components = fixture();
        let chosen = for_backup(&components, &refs(&["writerData/Usage"])).unwrap();
        let of =
            |wanted| names(chosen.iter().filter(|(_, how)| *how == wanted).map(|(component, _)| *component));
        assert_eq!(of(Inclusion::Explicit), ["Executables", "Executables/ConfigFiles", "writerData/Usage"]);
        assert_eq!(of(Inclusion::Implicit), ["writerData/Usage/Jan", "writerData/Usage/Dec"]);
    }

    #[test]
    fn a_member_that_is_not_selectable_cannot_be_chosen_and_the_error_says_what_can() {
        let components = fixture();
        assert_eq!(
            for_backup(&components, &refs(&["Security/UserInfo"])).unwrap_err(),
            SelectionError::NotSelectable { name: "Security/UserInfo".into(), instead: "Security".into() }
        );
        let error = for_backup(&components, &refs(&["Nothing"])).unwrap_err();
        assert!(matches!(error, SelectionError::Unknown { .. }));
    }

    #[test]
    fn an_implicit_component_comes_back_alone_only_if_it_says_so() {
        let components = fixture();
        let backup = for_backup(&components, &[]).unwrap();
        let restored = for_restore(&backup, &refs(&["writerData/Set1"])).unwrap();
        assert_eq!(names(restored), ["writerData/Set1", "writerData/Set1/Jan"]);
        let error = for_restore(&backup, &refs(&["writerData/Set1/Jan"])).unwrap_err();
        let instead = "writerData/Set1".into();
        assert_eq!(error, SelectionError::NotSelectable { name: "writerData/Set1/Jan".into(), instead });
        let explicit = for_restore(&backup, &refs(&["Security"])).unwrap();
        assert_eq!(names(explicit), ["Security", "Security/UserInfo", "Security/Certificates"]);
    }

    #[test]
    fn a_name_that_merely_begins_alike_is_no_ancestor() {
        let components = [component("", "data", true, false), component("database", "x", false, false)];
        let chosen = for_backup(&components, &[]).unwrap();
        assert!(chosen.iter().all(|(_, how)| *how == Inclusion::Explicit));
    }
}
