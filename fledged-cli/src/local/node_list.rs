//! `fledged node list`: the images in the container runtime.

use std::collections::BTreeSet;
use std::time::Instant;

use fledged_core::model::{ByteSize, Digest};
use fledged_core::port::{ImageId, RuntimeImage, RuntimeInfo};
use serde::Serialize;

use super::runtime_session::RuntimeSession;
use crate::args::{ListArgs, OutputFormat, RegistryArgs};
use crate::command_result::{CommandError, Exit, json, print};
use crate::output::{Align, Table, rounded_seconds, short_digest};

/// The result, as `-o json` prints it.
#[derive(Debug, Serialize)]
struct ImageList {
    runtime: RuntimeVersion,
    images: Vec<ListedImage>,
    summary: ListSummary,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeVersion {
    name: String,
    version: String,
    api_version: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ListedImage {
    id: String,
    references: Vec<String>,
    digest: Option<Digest>,
    size_bytes: ByteSize,
    pinned: bool,
    in_use: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ListSummary {
    images: usize,
    size_bytes: ByteSize,
    seconds: f64,
}

pub(super) async fn list(args: ListArgs) -> Result<Exit, CommandError> {
    let start = Instant::now();
    let uri = args.runtime.runtime.as_ref();
    let session = RuntimeSession::open_existing(uri, &RegistryArgs::unused()).await?;
    let runtime = &session.runtime;
    let info = runtime
        .info()
        .await
        .map_err(CommandError::runtime("read the runtime's version"))?;
    let in_use: BTreeSet<ImageId> = runtime
        .in_use()
        .await
        .map_err(CommandError::runtime("list images in use"))?
        .into_iter()
        .map(|used| used.image)
        .collect();
    let mut images: Vec<ListedImage> = runtime
        .list()
        .await
        .map_err(CommandError::runtime("list images"))?
        .into_iter()
        .map(|image| listed_image(image, &in_use))
        .collect();
    images.sort_by(|a, b| (&a.references, &a.id).cmp(&(&b.references, &b.id)));
    let summary = ListSummary {
        images: images.len(),
        size_bytes: images.iter().map(|image| image.size_bytes).sum(),
        seconds: rounded_seconds(start.elapsed()),
    };
    let list = ImageList {
        runtime: info.into(),
        images,
        summary,
    };
    match args.output.output {
        OutputFormat::Json => print(&json(&list)?)?,
        OutputFormat::Table => print(&table(&list))?,
    }
    Ok(Exit::Done)
}

impl From<RuntimeInfo> for RuntimeVersion {
    fn from(info: RuntimeInfo) -> Self {
        Self {
            name: info.name,
            version: info.version,
            api_version: info.api_version,
        }
    }
}

fn listed_image(image: RuntimeImage, in_use: &BTreeSet<ImageId>) -> ListedImage {
    let mut references: Vec<String> = image
        .references
        .iter()
        .map(|reference| reference.as_str().to_owned())
        .collect();
    references.sort_by_key(|reference| (reference.contains('@'), reference.clone()));
    ListedImage {
        in_use: in_use.contains(&image.id),
        id: image.id.0,
        references,
        digest: image.digest,
        size_bytes: image.size,
        pinned: image.pinned,
    }
}

fn table(list: &ImageList) -> String {
    let mut table = Table::new(&[
        ("IMAGE", Align::Left),
        ("DIGEST", Align::Left),
        ("SIZE", Align::Right),
        ("PINNED", Align::Left),
        ("IN USE", Align::Left),
    ]);
    let flag = |set: bool| if set { "yes" } else { "" }.to_owned();
    for image in &list.images {
        // Tags; an image without tags is listed by its first digest reference, or by its ID.
        let tags: Vec<&String> = image
            .references
            .iter()
            .filter(|reference| !reference.contains('@'))
            .collect();
        let names = match (tags.is_empty(), image.references.first()) {
            (false, _) => tags,
            (true, Some(first)) => vec![first],
            (true, None) => vec![&image.id],
        };
        for (i, name) in names.into_iter().enumerate() {
            if i == 0 {
                table.row([
                    name.clone(),
                    image.digest.as_ref().map(short_digest).unwrap_or_default(),
                    image.size_bytes.to_string(),
                    flag(image.pinned),
                    flag(image.in_use),
                ]);
            } else {
                table.row([format!("  {name}")]);
            }
        }
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use fledged_core::model::ImageRef;

    use super::*;

    fn image(id: &str, references: &[&str]) -> RuntimeImage {
        RuntimeImage::new(
            id,
            references.iter().map(|text| ImageRef::parse(text).unwrap()),
        )
        .with_size(ByteSize::new(1024))
        .with_pinned(id == "pause")
    }

    #[test]
    fn an_image_is_listed_once_with_all_its_tags() {
        let digest = format!("app@sha256:{}", "a".repeat(64));
        let in_use = [ImageId("a".to_owned())].into();
        let list = ImageList {
            runtime: RuntimeVersion {
                name: String::new(),
                version: String::new(),
                api_version: String::new(),
            },
            images: vec![
                listed_image(image("a", &[&digest, "app:2", "app:1"]), &in_use),
                listed_image(image("pause", &[]), &in_use),
            ],
            summary: ListSummary {
                images: 2,
                size_bytes: ByteSize::ZERO,
                seconds: 0.0,
            },
        };
        assert_eq!(
            table(&list),
            "\
IMAGE                          SIZE   PINNED   IN USE
docker.io/library/app:1     1.0 KiB            yes
  docker.io/library/app:2
pause                       1.0 KiB   yes
"
        );
    }
}
