//! What `node run` wants of its node, edit by edit.

use std::collections::BTreeMap;

use fledged_core::model::{
    AssignedImage, Assignment, AssignmentDefaults, ImageCache, ImageRef, NodeFacts,
};

/// Folds edits into assignments: what the manifests name is to be present; what they named
/// earlier in this run and no longer do is to be absent until it is gone, and is then forgotten.
///
/// What other hands put on the node is never named here, and so never removed.
#[derive(Debug)]
pub struct Desired {
    node: NodeFacts,
    defaults: AssignmentDefaults,
    generation: u64,
    present: Vec<AssignedImage>,
    leaving: BTreeMap<ImageRef, AssignedImage>,
}

impl Desired {
    /// Nothing is wanted of that node yet.
    #[must_use]
    pub fn new(node: NodeFacts, defaults: AssignmentDefaults) -> Self {
        Self {
            node,
            defaults,
            generation: 0,
            present: Vec::new(),
            leaving: BTreeMap::new(),
        }
    }

    /// The manifests say this now.
    pub fn edited(&mut self, caches: &[ImageCache]) -> Assignment {
        let wanted = Assignment::for_node(&self.node, caches, self.defaults).images;
        for before in std::mem::replace(&mut self.present, wanted) {
            self.leaving
                .insert(before.image.clone(), before.into_absent());
        }
        for entry in &self.present {
            self.leaving.remove(&entry.image);
        }
        self.assignment()
    }

    /// Those images are gone; the assignment without them, if that is a change.
    pub fn removed(&mut self, images: impl IntoIterator<Item = ImageRef>) -> Option<Assignment> {
        let before = self.leaving.len();
        for image in images {
            self.leaving.remove(&image);
        }
        (self.leaving.len() < before).then(|| self.assignment())
    }

    /// How many images are to be present.
    #[must_use]
    pub fn present(&self) -> usize {
        self.present.len()
    }

    fn assignment(&mut self) -> Assignment {
        self.generation += 1;
        Assignment::new(
            self.generation,
            self.present.iter().chain(self.leaving.values()).cloned(),
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

    fn desired() -> Desired {
        Desired::new(
            NodeFacts::new(NodeName::new("n").unwrap()),
            AssignmentDefaults::default(),
        )
    }

    fn image(text: &str) -> ImageRef {
        ImageRef::parse(text).unwrap()
    }

    #[test]
    fn an_image_that_left_is_absent_until_it_is_gone() {
        let mut desired = desired();
        desired.edited(&caches(&["a:1", "b:1"]));
        let second = desired.edited(&caches(&["a:1"]));
        assert_eq!(second.generation, 2);
        assert_eq!(
            states(&second),
            [
                ("a:1".to_owned(), DesiredState::Present),
                ("b:1".to_owned(), DesiredState::Absent)
            ]
            .into()
        );
        let third = desired.removed([image("b:1")]).unwrap();
        assert_eq!(
            states(&third),
            [("a:1".to_owned(), DesiredState::Present)].into()
        );
        assert_eq!(desired.removed([image("b:1")]), None);
    }

    #[test]
    fn an_image_that_comes_back_is_present() {
        let mut desired = desired();
        desired.edited(&caches(&["a:1", "b:1"]));
        desired.edited(&caches(&["a:1"]));
        let third = desired.edited(&caches(&["a:1", "b:1"]));
        assert!(states(&third).values().all(|s| *s == DesiredState::Present));
    }

    #[test]
    fn the_same_image_in_other_words_does_not_leave() {
        let mut desired = desired();
        desired.edited(&caches(&["nginx"]));
        let second = desired.edited(&caches(&["docker.io/library/nginx:latest"]));
        assert_eq!(second.images.len(), 1);
        assert_eq!(second.images[0].state, DesiredState::Present);
    }

    #[test]
    fn an_image_that_only_is_reported_gone_stays_desired() {
        let mut desired = desired();
        desired.edited(&caches(&["a:1"]));
        assert_eq!(desired.removed([image("a:1")]), None);
    }
}
