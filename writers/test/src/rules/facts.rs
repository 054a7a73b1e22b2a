//! R19 to R21: what writers saw of the world.

use super::Found;
use super::story::Story;

pub fn there(story: &Story<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for one in &story.conversations {
        for exchange in &one.exchanges {
            for seen in exchange.seen.iter().filter(|seen| !seen.found) {
                let at = match &seen.at {
                    Some(at) if *at != seen.original => format!("nothing is at {}", at.display()),
                    Some(_) => "there is nothing".to_owned(),
                    None => "no root leads to it".to_owned(),
                };
                let why = format!("`{}` names {}: {at}", exchange.method, seen.original.display());
                found.push(one.found(exchange.line, why));
            }
        }
    }
    found
}

pub fn looked(story: &Story<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for one in &story.conversations {
        for exchange in &one.exchanges {
            for looked in exchange.looked.iter().filter(|looked| looked.code != Some(0)) {
                let code = looked.code.map_or("no exit code".to_owned(), |code| format!("exit code {code}"));
                let (command, said) = (looked.command.join(" "), looked.said.trim_end());
                let why = format!("at `{}`, `{command}` ended with {code}: {said}", exchange.method);
                found.push(one.found(exchange.line, why));
            }
        }
    }
    found
}

pub fn gone(story: &Story<'_>) -> Vec<Found> {
    let alive = story.conversations.iter().filter(|one| one.is_alive);
    alive.map(|one| one.found(one.last, format!("process {} is still there", one.process.pid))).collect()
}
