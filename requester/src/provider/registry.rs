//! Which providers there are: `const` descriptors, collected by `inventory` or registered by hand.

use std::collections::BTreeMap;

use super::{Atomicity, Provider};

/// A provider as it is registered: names and a function pointer. Registering touches nothing.
#[derive(Debug)]
pub struct ProviderDescriptor {
    /// What `provider = "…"` in the configuration says, and records.
    pub name: &'static str,
    /// What its copies are worth.
    pub atomicity: Atomicity,
    /// One line for `list providers`.
    pub summary: &'static str,
    /// Makes it. Touches no file.
    pub build: fn() -> Box<dyn Provider>,
}

inventory::collect!(ProviderDescriptor);

/// Two providers of one name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("two providers are registered as `{name}`")]
pub struct DuplicateProvider {
    /// The name.
    pub name: &'static str,
}

/// The providers of this program, by name.
#[derive(Debug, Default)]
pub struct Providers {
    descriptors: BTreeMap<&'static str, &'static ProviderDescriptor>,
}

impl Providers {
    /// All that were linked into the program, and `more`. `inventory` promises neither order nor uniqueness;
    /// this sorts, and refuses duplicates.
    ///
    /// # Errors
    /// [`DuplicateProvider`].
    pub fn linked(more: &[&'static ProviderDescriptor]) -> Result<Self, DuplicateProvider> {
        let mut providers = Self::default();
        let linked = inventory::iter::<ProviderDescriptor>.into_iter();
        linked.chain(more.iter().copied()).try_for_each(|d| providers.register(d))?;
        Ok(providers)
    }

    /// Adds one.
    ///
    /// # Errors
    /// [`DuplicateProvider`]; nothing changed then.
    pub fn register(&mut self, descriptor: &'static ProviderDescriptor) -> Result<(), DuplicateProvider> {
        if self.descriptors.contains_key(descriptor.name) {
            return Err(DuplicateProvider { name: descriptor.name });
        }
        self.descriptors.insert(descriptor.name, descriptor);
        Ok(())
    }

    /// Sorted by name.
    pub fn descriptors(&self) -> impl Iterator<Item = &'static ProviderDescriptor> + '_ {
        self.descriptors.values().copied()
    }

    /// One of each.
    pub fn build(&self) -> Vec<Box<dyn Provider>> {
        self.descriptors().map(|d| (d.build)()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_providers_of_this_program_are_these_and_each_is_what_its_descriptor_says() {
        let providers = Providers::linked(&[]).unwrap();
        let names: Vec<_> = providers.descriptors().map(|d| (d.name, d.atomicity)).collect();
        let expected =
            [("btrfs", Atomicity::Volume), ("copy", Atomicity::None), ("reflink", Atomicity::File)];
        assert_eq!(names, expected);
        for (built, (name, atomicity)) in providers.build().iter().zip(expected) {
            assert_eq!((built.name(), built.atomicity()), (name, atomicity));
        }
    }

    #[test]
    fn a_second_provider_of_a_name_is_refused() {
        static SECOND: ProviderDescriptor = ProviderDescriptor {
            name: "copy",
            atomicity: Atomicity::None,
            summary: "",
            build: || Box::new(crate::provider::copy::CopyProvider),
        };
        assert_eq!(Providers::linked(&[&SECOND]).unwrap_err(), DuplicateProvider { name: "copy" });
    }
}
