//! The messages and clients of `proto/cri.proto`.

tonic::include_proto!("runtime.v1");

/// Without the credentials themselves.
impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}
