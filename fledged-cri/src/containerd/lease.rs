//! Leases: they keep what pulls write into containerd's content store from garbage collection.
//!
//! Each pull has one. Its expiry cannot be changed, so a renewal deletes the lease and makes it again; a copy keeps the
//! content meanwhile. A pull also keeps an empty ingest open, its marker, under the name of its lease: containerd has
//! one writer for an ingest, and closes it when the connection of a process ends. A lease whose marker can be opened
//! therefore belongs to no running pull of any process.

use std::convert::Infallible;
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::ImageRef;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{RwLock, RwLockReadGuard};
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};

use super::calls::Calls;
use super::ingest::{self, Ingest, Name, Opened};
use super::proto::leases::leases_client::LeasesClient;
use super::proto::leases::{
    AddResourceRequest, CreateRequest, DeleteRequest, ListRequest, ListResourcesRequest, Resource,
};
use crate::registry::sha256;

/// What ends the ID of the copy of a lease.
const COPY: &str = "-copy";
/// A lease is renewed so many times before it expires.
const RENEWALS: u32 = 24;
/// The shortest interval of renewals.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// How long a failed renewal waits, at most.
const RETRY: Duration = Duration::from_secs(60);
/// How long a lease in use is looked at again. The marker of a pull that has just been cancelled is closed within that.
const IN_USE_MAX: Duration = Duration::from_secs(2);
const IN_USE_RETRY: Duration = Duration::from_millis(100);

/// When containerd deletes what only a deleted lease kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Collect {
    /// Before it answers.
    Now,
    /// At its next garbage collection, which can be a minute later.
    Later,
}

/// The leases of all pulls of one image.
#[derive(Debug, Clone)]
pub(super) struct ImageLeases {
    calls: Calls,
    prefix: String,
}

impl ImageLeases {
    pub(super) fn new(calls: Calls, image: &ImageRef) -> Self {
        let hash = sha256(image.as_str().as_bytes());
        let hash: String = hash.chars().skip("sha256:".len()).take(16).collect();
        let prefix = format!("fledged-{hash}-");
        Self { calls, prefix }
    }

    /// Deletes the leases of pulls that have ended, in this process or in another one, and what nothing else keeps.
    pub(super) async fn delete_unused(&self) -> Result<(), Failure> {
        self.delete_unused_but(None, Collect::Now).await
    }

    /// As [`delete_unused`](Self::delete_unused), without that lease.
    async fn delete_unused_but(&self, own: Option<&str>, collect: Collect) -> Result<(), Failure> {
        let deadline = Instant::now() + IN_USE_MAX;
        let mut leases = self.list().await?;
        leases.retain(|id| Some(marker(id)) != own);
        loop {
            let mut used = Vec::new();
            for id in leases {
                if self.is_used(&id).await? {
                    used.push(id);
                } else {
                    self.delete(&id, collect).await?;
                }
            }
            if used.is_empty() || Instant::now() >= deadline {
                return Ok(());
            }
            tokio::time::sleep(IN_USE_RETRY).await;
            leases = used;
        }
    }

    async fn list(&self) -> Result<Vec<String>, Failure> {
        let mut leases = self.client();
        let list = leases.list(Calls::request(ListRequest {}));
        let list = self.calls.answer(list).await?.leases;
        let ids = list.into_iter().map(|lease| lease.id);
        Ok(ids.filter(|id| id.starts_with(&self.prefix)).collect())
    }

    /// Whether a pull that is running has that lease.
    async fn is_used(&self, id: &str) -> Result<bool, Failure> {
        match self.open_marker(id).await {
            Ok(opened) => Ok(matches!(opened, Opened::Locked)),
            // The lease has been deleted.
            Err(failure) if failure.reason == Reason::ImageNotFound => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    async fn open_marker(&self, id: &str) -> Result<Opened, Failure> {
        let name = Name {
            reference: marker(id).to_owned(),
            ..Name::default()
        };
        ingest::open(&self.calls, header(id)?, name).await
    }

    /// Makes a lease, unless it exists.
    async fn create(&self, id: &str, lasting: Duration) -> Result<(), Failure> {
        let lasting = SignedDuration::try_from(lasting).unwrap_or(SignedDuration::MAX);
        let expires = Timestamp::now().checked_add(lasting);
        let expires = expires.unwrap_or(Timestamp::MAX).to_string();
        let request = CreateRequest {
            id: id.to_owned(),
            labels: [("containerd.io/gc.expire".to_owned(), expires)].into(),
        };
        let mut leases = self.client();
        let create = leases.create(Calls::request(request));
        self.calls.created(create).await?;
        Ok(())
    }

    /// Deletes a lease, if it exists.
    async fn delete(&self, id: &str, collect: Collect) -> Result<(), Failure> {
        let request = Calls::request(DeleteRequest {
            id: id.to_owned(),
            sync: collect == Collect::Now,
        });
        let mut leases = self.client();
        self.calls.found(leases.delete(request)).await?;
        Ok(())
    }

    /// What a lease keeps. Nothing, if it does not exist.
    async fn resources(&self, id: &str) -> Result<Vec<Resource>, Failure> {
        let request = Calls::request(ListResourcesRequest { id: id.to_owned() });
        let mut leases = self.client();
        match self.calls.answer(leases.list_resources(request)).await {
            Ok(listed) => Ok(listed.resources),
            Err(failure) if failure.reason == Reason::ImageNotFound => Ok(Vec::new()),
            Err(failure) => Err(failure),
        }
    }

    async fn add(&self, id: &str, resources: &[Resource]) -> Result<(), Failure> {
        for resource in resources {
            let request = Calls::request(AddResourceRequest {
                id: id.to_owned(),
                resource: Some(resource.clone()),
            });
            let mut leases = self.client();
            self.calls.answer(leases.add_resource(request)).await?;
        }
        Ok(())
    }

    fn client(&self) -> LeasesClient<tonic::transport::Channel> {
        LeasesClient::new(self.calls.channel())
    }
}

/// The name of the marker of a lease, which is also that of its copy.
fn marker(id: &str) -> &str {
    id.strip_suffix(COPY).unwrap_or(id)
}

fn header(id: &str) -> Result<MetadataValue<Ascii>, Failure> {
    let invalid = |error: tonic::metadata::errors::InvalidMetadataValue| {
        Failure::new(Reason::Unknown, error.to_string())
    };
    id.parse().map_err(invalid)
}

/// The lease of one pull.
#[derive(Debug)]
pub(super) struct Lease {
    leases: ImageLeases,
    id: String,
    header: MetadataValue<Ascii>,
    lasting: Duration,
    /// Held for writing while the lease does not exist.
    existing: RwLock<()>,
    /// Whether it keeps what earlier pulls have fetched.
    inherits: bool,
    _marker: Box<Ingest>,
}

impl Lease {
    /// Makes a lease. It takes over what the leases of earlier pulls of the image keep.
    ///
    /// # Errors
    ///
    /// [`Reason::RuntimeUnsupported`] if the server is not containerd.
    pub(super) async fn create(leases: ImageLeases, lasting: Duration) -> Result<Self, Failure> {
        let id = format!("{}{}", leases.prefix, Timestamp::now().as_nanosecond());
        leases.create(&id, lasting).await?;
        let Opened::Ingest(marker) = leases.open_marker(&id).await? else {
            // Another process has taken it for that of a pull that has ended.
            let text = "the lease was deleted by another process";
            return Err(Failure::new(Reason::Unknown, text));
        };
        let mut lease = Self {
            header: header(&id)?,
            leases,
            id,
            lasting,
            existing: RwLock::default(),
            inherits: false,
            _marker: marker,
        };
        if let Err(failure) = lease.inherit().await {
            tracing::debug!(%failure, "content of earlier pulls not kept longer");
        }
        Ok(lease)
    }

    /// Takes over what unused leases keep, so that it does not expire with them.
    async fn inherit(&mut self) -> Result<(), Failure> {
        let mut others = self.leases.list().await?;
        others.retain(|id| *id != self.id);
        for id in others {
            if !self.leases.is_used(&id).await? {
                let mut kept = self.leases.resources(&id).await?;
                kept.retain(|resource| resource.id != marker(&id));
                self.leases.add(&self.id, &kept).await?;
                self.leases.delete(&id, Collect::Later).await?;
                self.inherits |= !kept.is_empty();
            }
        }
        Ok(())
    }

    pub(super) fn header(&self) -> MetadataValue<Ascii> {
        self.header.clone()
    }

    /// Waits until the lease exists. It does while the result is held.
    pub(super) async fn existing(&self) -> RwLockReadGuard<'_, ()> {
        self.existing.read().await
    }

    /// Whether it keeps what earlier pulls have fetched.
    pub(super) fn inherits(&self) -> bool {
        self.inherits
    }

    /// Renews the lease again and again, until it is dropped.
    pub(super) async fn keep(&self) -> Infallible {
        let interval = INTERVAL_MIN.max(self.lasting / RENEWALS);
        let mut pause = interval;
        loop {
            tokio::time::sleep(pause).await;
            pause = match self.renew().await {
                Ok(()) => interval,
                Err(failure) => {
                    tracing::warn!(lease = self.id, %failure, "lease not renewed");
                    interval.min(RETRY)
                }
            };
        }
    }

    /// Sets the expiry anew. What the lease keeps, its copy keeps until the lease exists again; also if that does not
    /// succeed, or the future is dropped.
    async fn renew(&self) -> Result<(), Failure> {
        let Self { leases, id, .. } = self;
        let _alone = self.existing.write().await;
        let copy = format!("{id}{COPY}");
        leases.create(&copy, self.lasting).await?;
        let kept = leases.resources(id).await?;
        leases.add(&copy, &kept).await?;
        // With what a renewal that failed has left.
        let kept = leases.resources(&copy).await?;
        leases.delete(id, Collect::Later).await?;
        leases.create(id, self.lasting).await?;
        leases.add(id, &kept).await?;
        leases.delete(&copy, Collect::Later).await?;
        tracing::debug!(lease = id, resources = kept.len(), "lease renewed");
        Ok(())
    }

    /// Deletes the lease.
    pub(super) async fn delete(&self, collect: Collect) -> Result<(), Failure> {
        let copy = format!("{}{COPY}", self.id);
        self.leases.delete(&copy, Collect::Later).await?;
        self.leases.delete(&self.id, collect).await
    }

    /// Deletes the lease, and those of other pulls of the image that have ended.
    pub(super) async fn delete_with_unused(&self, collect: Collect) -> Result<(), Failure> {
        let others = self
            .leases
            .delete_unused_but(Some(&self.id), Collect::Later);
        others.await?;
        self.delete(collect).await
    }
}
