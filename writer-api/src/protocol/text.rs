//! Text of a stranger, made fit to be shown.

use serde_json::Value;

/// `text` with its control characters written out, so that it stays on its line and moves no cursor.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// The same for every text inside `value`.
pub fn all_shown(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(shown(&text)),
        Value::Array(items) => Value::Array(items.into_iter().map(all_shown).collect()),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(key, field)| (shown(&key), all_shown(field))).collect())
        }
        other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_written_out_and_the_rest_is_kept() {
        assert_eq!(shown("a\u{1b}[2J\nstate: fine\u{9b}ü"), "a\\u{1b}[2J\\nstate: fine\\u{9b}ü");
        let value = serde_json::json!({"a\n": ["\u{7}", 1, null]});
        assert_eq!(all_shown(value), serde_json::json!({"a\\n": ["\\u{7}", 1, null]}));
    }
}
