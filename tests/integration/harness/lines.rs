//! The lines by which one instance reaches Redis: one, or one to each node of a cluster.

use super::{Line, Proxy, Store};

#[derive(Debug)]
pub struct RedisLines {
    /// In the order of the nodes.
    proxies: Vec<Proxy>,
    urls: Vec<String>,
}

impl RedisLines {
    pub async fn to(store: &Store) -> RedisLines {
        let (proxies, urls) = match store {
            Store::Single(redis) => (vec![Proxy::start(redis.port()).await], vec![redis.url()]),
            Store::Cluster(cluster) => {
                let nodes: Vec<u16> = cluster.nodes().iter().map(|node| node.port()).collect();
                (Proxy::start_for_each(&nodes).await, cluster.urls())
            }
        };
        let by_line = |(url, proxy): (String, &Proxy)| {
            let (server, _) = url.rsplit_once(':').expect("a port");
            format!("{server}:{}", proxy.port())
        };
        let urls = urls.into_iter().zip(&proxies).map(by_line).collect();
        RedisLines { proxies, urls }
    }

    /// For the configuration.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// The line to a node; to the only Redis, 0.
    pub fn node(&self, node: usize) -> &Proxy {
        &self.proxies[node]
    }

    /// All of them.
    pub fn set(&self, line: Line) {
        self.proxies.iter().for_each(|proxy| proxy.set(line));
    }
}
