//! The interface file against the Rust types, in both directions.
//!
//! Goal: neither can change without the other.
//! Method: fully populated samples of every call, reply and error, checked field by field against the file; and every
//! declared field taken away from them, which the types must bear exactly where the file says `?`.

mod samples;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use varlink_parser::{IDL, VStruct, VStructOrEnum, VType, VTypeExt};

use super::wire::INTERFACE_TEXT;
use samples::Sample;

fn interface() -> IDL<'static> {
    IDL::try_from(INTERFACE_TEXT).unwrap_or_else(|error| panic!("{error}"))
}

/// Walks a sample along its declaration.
struct Check<'i> {
    idl: &'i IDL<'static>,
    problems: Vec<String>,
    /// Every field that was met, as `Type.field`.
    met: BTreeSet<String>,
    /// Every declared field that was met: where it is, and whether it may be absent.
    fields: Vec<(String, bool)>,
}

impl<'i> Check<'i> {
    fn new(idl: &'i IDL<'static>) -> Self {
        Self { idl, problems: Vec::new(), met: BTreeSet::new(), fields: Vec::new() }
    }

    fn problem(&mut self, at: &str, what: impl std::fmt::Display) {
        self.problems.push(format!("{at}: {what}"));
    }

    fn object(&mut self, of: &str, declared: &VStruct<'_>, value: &Value, at: &str) {
        let Some(object) = value.as_object() else { return self.problem(at, "is no object") };
        for name in object.keys() {
            if !declared.elts.iter().any(|field| field.name == name) {
                self.problem(at, format!("`{name}` is not declared in {of}"));
            }
        }
        for field in &declared.elts {
            let optional = matches!(field.vtype, VTypeExt::Option(_));
            let path = format!("{at}/{}", field.name);
            match object.get(field.name) {
                None | Some(Value::Null) if optional => {}
                None => {
                    self.problem(at, format!("`{}` of {of} is absent, and declared without `?`", field.name))
                }
                Some(value) => {
                    self.met.insert(format!("{of}.{}", field.name));
                    // Of these, one field decides about the others.
                    if of != "KeySeal" {
                        self.fields.push((path.clone(), optional));
                    }
                    self.value(&field.vtype, value, &path);
                }
            }
        }
    }

    fn value(&mut self, declared: &VTypeExt<'_>, value: &Value, at: &str) {
        match (declared, value) {
            (VTypeExt::Option(inner), _) => self.value(inner, value, at),
            (VTypeExt::Array(inner), Value::Array(items)) => {
                if items.is_empty() {
                    self.problem(at, "is empty, so that nothing was checked");
                }
                for (n, item) in items.iter().enumerate() {
                    self.value(inner, item, &format!("{at}/{n}"));
                }
            }
            (VTypeExt::Dict(inner), Value::Object(fields)) => {
                if fields.is_empty() {
                    self.problem(at, "is empty, so that nothing was checked");
                }
                for (key, field) in fields {
                    // A slash in a key is written `~1` in a path.
                    self.value(inner, field, &format!("{at}/{}", key.replace('/', "~1")));
                }
            }
            (VTypeExt::Plain(plain), _) => self.plain(plain, value, at),
            (VTypeExt::Array(_) | VTypeExt::Dict(_), _) => self.problem(at, "is neither list nor map"),
        }
    }

    fn plain(&mut self, declared: &VType<'_>, value: &Value, at: &str) {
        let fits = match declared {
            VType::Bool => value.is_boolean(),
            VType::Int => value.is_i64() || value.is_u64(),
            VType::Float => value.is_f64(),
            VType::String => value.is_string(),
            VType::Object => value.is_object(),
            VType::Typename(name) => return self.named(name, value, at),
            VType::Struct(declared) => return self.object(at, declared, value, at),
            VType::Enum(declared) => value.as_str().is_some_and(|text| declared.elts.contains(&text)),
        };
        if !fits {
            self.problem(at, format!("{value} is not of its declared type"));
        }
    }

    fn named(&mut self, name: &str, value: &Value, at: &str) {
        match self.idl.typedefs.get(name).map(|typedef| &typedef.elt) {
            Some(VStructOrEnum::VStruct(declared)) => self.object(name, declared, value, at),
            Some(VStructOrEnum::VEnum(declared)) => {
                if !value.as_str().is_some_and(|text| declared.elts.contains(&text)) {
                    self.problem(at, format!("{value} is no value of {name}"));
                }
            }
            None => self.problem(at, format!("{name} is not declared")),
        }
    }
}

/// Checks a sample, and that the types can do without a field exactly where the file says so.
fn check(idl: &IDL<'static>, declared: &VStruct<'_>, sample: &Sample, met: &mut BTreeSet<String>) {
    let mut check = Check::new(idl);
    check.object(&sample.name, declared, &sample.json, "");
    assert!(check.problems.is_empty(), "{}: {:#?}", sample.name, check.problems);
    (sample.reads)(&sample.json).unwrap_or_else(|why| panic!("{} does not read back: {why}", sample.name));
    for (field, optional) in &check.fields {
        for null in [false, true] {
            let read = (sample.reads)(&without(&sample.json, field, null));
            match (read, optional) {
                (Ok(()), true) | (Err(_), false) => {}
                (Err(why), true) => {
                    panic!("{}{field} is declared with `?`, and must be there: {why}", sample.name)
                }
                (Ok(()), false) => {
                    panic!("{}{field} is declared without `?`, and may be absent", sample.name)
                }
            }
        }
    }
    met.extend(check.met);
}

fn without(json: &Value, field: &str, null: bool) -> Value {
    let mut json = json.clone();
    let (parent, name) = field.rsplit_once('/').expect("a path");
    let parent = json.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
    if null {
        parent.insert(name.into(), Value::Null)
    } else {
        parent.remove(name)
    };
    json
}

#[test]
fn every_call_reply_and_error_is_what_the_interface_file_says() {
    let idl = interface();
    let mut met = BTreeSet::new();
    let mut names = BTreeMap::<&str, BTreeSet<String>>::new();
    for sample in samples::calls() {
        let method = idl.methods.get(&*sample.name).unwrap_or_else(|| panic!("{}: no method", sample.name));
        check(&idl, &method.input, &sample, &mut met);
        names.entry("calls").or_default().insert(sample.name);
    }
    for sample in samples::replies() {
        let method = idl.methods.get(&*sample.name).unwrap_or_else(|| panic!("{}: no method", sample.name));
        check(&idl, &method.output, &sample, &mut met);
        names.entry("replies").or_default().insert(sample.name);
    }
    for sample in samples::errors() {
        let error = idl.errors.get(&*sample.name).unwrap_or_else(|| panic!("{}: no error", sample.name));
        check(&idl, &error.parm, &sample, &mut met);
        names.entry("errors").or_default().insert(sample.name);
    }
    let declared = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(names["calls"], declared(&idl.method_keys));
    assert_eq!(names["replies"], declared(&idl.method_keys));
    assert_eq!(names["errors"], declared(&idl.error_keys));
    // What no sample had, nothing has.
    for (name, typedef) in &idl.typedefs {
        if let VStructOrEnum::VStruct(fields) = &typedef.elt {
            for field in &fields.elts {
                let field = format!("{name}.{}", field.name);
                assert!(met.contains(&field), "{field} is declared, and no type has it");
            }
        }
    }
}

#[test]
fn every_value_of_every_enum_is_listed_and_no_other() {
    let idl = interface();
    let ours = samples::enums();
    for (name, typedef) in &idl.typedefs {
        if let VStructOrEnum::VEnum(declared) = &typedef.elt {
            assert_eq!(
                ours.get(name),
                Some(&declared.elts.iter().map(|v| (*v).to_owned()).collect()),
                "{name}"
            );
        }
    }
    for name in ours.keys() {
        assert!(idl.typedefs.contains_key(name), "{name} is not declared");
    }
}

#[test]
fn every_method_type_and_error_says_what_it_is() {
    let idl = interface();
    let mut silent = Vec::new();
    silent.extend(idl.methods.values().filter(|m| m.doc.is_empty()).map(|m| m.name));
    silent.extend(idl.typedefs.values().filter(|t| t.doc.is_empty()).map(|t| t.name));
    silent.extend(idl.errors.values().filter(|e| e.doc.is_empty()).map(|e| e.name));
    assert!(silent.is_empty(), "{silent:?}");
    assert!(!idl.doc.is_empty());
}

#[test]
fn the_interface_of_every_service_is_well_formed() {
    let idl = IDL::try_from(super::wire::SERVICE_TEXT).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((idl.name, idl.methods.len(), idl.errors.len()), (super::wire::SERVICE, 2, 4));
}
