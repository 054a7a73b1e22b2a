//! The checks, by what they are about. Each watches the application; the writer's word is only compared with it.

pub mod capabilities;
pub mod files;
pub mod hold;
pub mod identify;
pub mod keys;
pub mod logs;
pub mod release;
pub mod restore;
pub mod states;
pub mod streams;
