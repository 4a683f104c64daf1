"""From records of photographs to labelled folders: metadata, pictures, buckets, features, retrieval, people."""
