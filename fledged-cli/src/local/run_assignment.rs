//! The assignment of `node run`, updated with every edit of the manifests.

use std::collections::BTreeMap;
use std::time::Duration;

use fledged_core::model::{
    AssignedImage, Assignment, AssignmentDefaults, ImageCache, ImageRef, NodeFacts,
};

/// Turns edits of the manifests into assignments.
///
/// Images in the manifests are `Present`. Images that were in the manifests earlier in this run are `Absent`
/// until they are removed, and then dropped. Other images on the node are never assigned, so never removed.
#[derive(Debug)]
pub(super) struct RunAssignment {
    node: NodeFacts,
    defaults: AssignmentDefaults,
    generation: u64,
    present: Vec<AssignedImage>,
    absent: BTreeMap<ImageRef, AssignedImage>,
}

impl RunAssignment {
    /// An empty assignment for that node.
    pub(super) fn new(node: NodeFacts, defaults: AssignmentDefaults) -> Self {
        Self {
            node,
            defaults,
            generation: 0,
            present: Vec::new(),
            absent: BTreeMap::new(),
        }
    }

    /// The assignment for these manifests.
    pub(super) fn update(&mut self, caches: &[ImageCache]) -> Assignment {
        let present = Assignment::for_node(&self.node, caches, self.defaults).images;
        for before in std::mem::replace(&mut self.present, present) {
            self.absent
                .insert(before.image.clone(), before.into_absent());
        }
        for entry in &self.present {
            self.absent.remove(&entry.image);
        }
        self.next_generation()
    }

    /// The assignment without these images, which were removed; `None` if it stays the same.
    pub(super) fn drop_removed(
        &mut self,
        images: impl IntoIterator<Item = ImageRef>,
    ) -> Option<Assignment> {
        let before = self.absent.len();
        for image in images {
            self.absent.remove(&image);
        }
        (self.absent.len() < before).then(|| self.next_generation())
    }

    /// The longest deadline that an ImageCache may set.
    pub(super) fn longest_deadline(&self) -> Duration {
        self.defaults.longest_deadline()
    }

    /// Number of images that are to be present.
    pub(super) fn present(&self) -> usize {
        self.present.len()
    }

    fn next_generation(&mut self) -> Assignment {
        self.generation += 1;
        Assignment::new(
            self.generation,
            self.present.iter().chain(self.absent.values()).cloned(),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fledged_core::model::{DesiredState, NodeName};

    use super::*;
    use crate::manifest::parse;

    fn caches(images: &[&str]) -> Vec<ImageCache> {
        let text = format!(
            "apiVersion: kubefledged.io/v1alpha2\nkind: ImageCache\nmetadata: {{name: a}}\nspec: {{cacheSpec: [{{images: {images:?}}}]}}\n"
        );
        parse(&[("test".to_owned(), text)]).unwrap().caches
    }

    fn states(assignment: &Assignment) -> BTreeMap<String, DesiredState> {
        assignment
            .images
            .iter()
            .map(|entry| (entry.image.to_string(), entry.state))
            .collect()
    }

    fn empty() -> RunAssignment {
        RunAssignment::new(
            NodeFacts::new(NodeName::new("n").unwrap()),
            AssignmentDefaults::default(),
        )
    }

    fn image(text: &str) -> ImageRef {
        ImageRef::parse(text).unwrap()
    }

    #[test]
    fn a_dropped_image_is_absent_until_its_removal() {
        let mut assignment = empty();
        assignment.update(&caches(&["a:1", "b:1"]));
        let second = assignment.update(&caches(&["a:1"]));
        assert_eq!(second.generation, 2);
        assert_eq!(
            states(&second),
            [
                ("a:1".to_owned(), DesiredState::Present),
                ("b:1".to_owned(), DesiredState::Absent)
            ]
            .into()
        );
        let third = assignment.drop_removed([image("b:1")]).unwrap();
        assert_eq!(
            states(&third),
            [("a:1".to_owned(), DesiredState::Present)].into()
        );
        assert_eq!(assignment.drop_removed([image("b:1")]), None);
    }

    #[test]
    fn an_image_that_is_added_back_is_present() {
        let mut assignment = empty();
        assignment.update(&caches(&["a:1", "b:1"]));
        assignment.update(&caches(&["a:1"]));
        let third = assignment.update(&caches(&["a:1", "b:1"]));
        assert!(states(&third).values().all(|s| *s == DesiredState::Present));
    }

    #[test]
    fn another_spelling_of_an_image_changes_nothing() {
        let mut assignment = empty();
        assignment.update(&caches(&["nginx"]));
        let second = assignment.update(&caches(&["docker.io/library/nginx:latest"]));
        assert_eq!(second.images.len(), 1);
        assert_eq!(second.images[0].state, DesiredState::Present);
    }

    #[test]
    fn a_present_image_stays_when_reported_removed() {
        let mut assignment = empty();
        assignment.update(&caches(&["a:1"]));
        assert_eq!(assignment.drop_removed([image("a:1")]), None);
    }
}
