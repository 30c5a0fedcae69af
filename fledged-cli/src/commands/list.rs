//! `fledged node list`.

use std::collections::BTreeSet;
use std::time::Instant;

use fledged_core::model::{ByteSize, Digest};
use fledged_core::port::{ImageId, RuntimeImage, RuntimeInfo};
use serde::Serialize;

use super::CommandError;
use super::print::print;
use crate::args::{ListArgs, OutputFormat, RegistryArgs};
use crate::exit::Exit;
use crate::output::{Align, Table, rounded_seconds, short_digest};
use crate::session::Session;

/// What `-o json` prints.
#[derive(Debug, Serialize)]
struct Listing {
    runtime: RuntimeWords,
    images: Vec<Row>,
    summary: ListSummary,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeWords {
    name: String,
    version: String,
    api_version: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
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
    let session = Session::open(args.runtime.runtime.as_ref(), &RegistryArgs::default()).await?;
    let runtime = &session.runtime;
    let info = runtime.info().await;
    let info = info.map_err(CommandError::runtime("read the runtime's version"))?;
    let in_use = runtime.in_use().await;
    let in_use = in_use.map_err(CommandError::runtime("list images in use"))?;
    let in_use: BTreeSet<ImageId> = in_use.into_iter().collect();
    let images = runtime.list().await;
    let images = images.map_err(CommandError::runtime("list images"))?;
    let mut images: Vec<Row> = images
        .into_iter()
        .map(|image| row(image, &in_use))
        .collect();
    images.sort_by(|a, b| (&a.references, &a.id).cmp(&(&b.references, &b.id)));
    let summary = ListSummary {
        images: images.len(),
        size_bytes: images.iter().map(|image| image.size_bytes).sum(),
        seconds: rounded_seconds(start.elapsed()),
    };
    let listing = Listing {
        runtime: words(info),
        images,
        summary,
    };
    match args.output.output {
        OutputFormat::Json => {
            let json = serde_json::to_string_pretty(&listing)
                .map_err(|error| CommandError::Output(error.into()))?;
            print(&(json + "\n"))?;
        }
        OutputFormat::Table => print(&table(&listing))?,
    }
    Ok(Exit::Done)
}

fn words(info: RuntimeInfo) -> RuntimeWords {
    RuntimeWords {
        name: info.name,
        version: info.version,
        api_version: info.api_version,
    }
}

fn row(image: RuntimeImage, in_use: &BTreeSet<ImageId>) -> Row {
    let mut references: Vec<String> = image
        .references
        .iter()
        .map(|reference| reference.as_str().to_owned())
        .collect();
    references.sort_by_key(|reference| (reference.contains('@'), reference.clone()));
    Row {
        in_use: in_use.contains(&image.id),
        id: image.id.0,
        references,
        digest: image.digest,
        size_bytes: image.size,
        pinned: image.pinned,
    }
}

fn table(listing: &Listing) -> String {
    let mut table = Table::new(&[
        ("IMAGE", Align::Left),
        ("DIGEST", Align::Left),
        ("SIZE", Align::Right),
        ("PINNED", Align::Left),
        ("IN USE", Align::Left),
    ]);
    let yes = |flag: bool| {
        if flag {
            "yes".to_owned()
        } else {
            String::new()
        }
    };
    for image in &listing.images {
        // By its tags; by digest only what has none.
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
                    yes(image.pinned),
                    yes(image.in_use),
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
    fn an_image_is_shown_once_with_all_its_tags() {
        let digest = format!("app@sha256:{}", "a".repeat(64));
        let in_use = [ImageId("a".to_owned())].into();
        let listing = Listing {
            runtime: RuntimeWords {
                name: String::new(),
                version: String::new(),
                api_version: String::new(),
            },
            images: vec![
                row(image("a", &[&digest, "app:2", "app:1"]), &in_use),
                row(image("pause", &[]), &in_use),
            ],
            summary: ListSummary {
                images: 2,
                size_bytes: ByteSize::ZERO,
                seconds: 0.0,
            },
        };
        assert_eq!(
            table(&listing),
            "\
IMAGE                          SIZE   PINNED   IN USE
docker.io/library/app:1     1.0 KiB            yes
  docker.io/library/app:2
pause                       1.0 KiB   yes
"
        );
    }
}
