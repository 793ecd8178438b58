//! The tree against the vectors of RFC 6962's reference implementation, and against `ct-merkle`'s own tree.

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ledger::tree::{
    Frontier, Hash, Node, Nodes, Span, consistency, inclusion, leaf_hash, parts, path,
    verify_consistency, verify_inclusion,
};
use proptest::prelude::*;
use sha2::Sha256;

struct Grown {
    leaves: Vec<Vec<u8>>,
    nodes: Nodes,
    roots: Vec<Hash>,
    oracle: Vec<Hash>,
}

fn grow(size: u64) -> Grown {
    let mut oracle = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    let mut frontier = Frontier::default();
    let mut grown = Grown {
        leaves: Vec::new(),
        nodes: Nodes::new(),
        roots: vec![frontier.root()],
        oracle: vec![frontier.root()],
    };
    for n in 0..size {
        let leaf = format!("leaf {n}").into_bytes();
        oracle.push(leaf.clone());
        let hash = leaf_hash(&leaf);
        grown.nodes.insert(
            Node {
                level: 0,
                number: n,
            },
            hash,
        );
        grown.nodes.extend(frontier.push(hash));
        grown.leaves.push(leaf);
        grown.roots.push(frontier.root());
        let root = oracle.root();
        grown.oracle.push(Hash((*root.as_bytes()).into()));
    }
    grown
}

fn hex(hash: &Hash) -> String {
    hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The inputs and roots with which certificate-transparency's and trillian's own tests work.
#[test]
fn roots_are_those_of_the_reference_implementation() {
    let leaves: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];
    let roots = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let mut frontier = Frontier::default();
    assert_eq!(hex(&frontier.root()), roots[0]);
    for (leaf, root) in leaves.iter().zip(&roots[1..]) {
        frontier.push(leaf_hash(leaf));
        assert_eq!(hex(&frontier.root()), *root);
    }
}

#[test]
fn every_proof_of_every_small_tree_holds_and_no_other() {
    let grown = grow(40);
    assert_eq!(grown.roots, grown.oracle);
    for size in 1..=40u64 {
        let root = &grown.roots[size as usize];
        assert_eq!(Span::whole(size).hash(&grown.nodes).as_ref(), Some(root));
        for position in 0..size {
            let spans = inclusion(position, size);
            let proof = path(&spans, &grown.nodes).unwrap();
            let leaf = &grown.leaves[position as usize];
            verify_inclusion(leaf, position, (size, root), &proof).unwrap();
            let other = &grown.leaves[(position as usize + 1) % 40];
            assert!(verify_inclusion(other, position, (size, root), &proof).is_err());
            assert!(verify_inclusion(leaf, size, (size, root), &proof).is_err());
        }
        for old in 0..=size {
            let proof = path(&consistency(old, size), &grown.nodes).unwrap();
            let was = &grown.roots[old as usize];
            verify_consistency((old, was), (size, root), &proof).unwrap();
            if old > 0 {
                let forged = Hash([9; 32]);
                assert!(verify_consistency((old, &forged), (size, root), &proof).is_err());
                assert!(verify_consistency((old, was), (size, &forged), &proof).is_err());
            }
        }
    }
}

#[test]
fn what_comes_from_outside_panics_nowhere() {
    let hash = Hash([1; 32]);
    for (a, b) in [
        (0, 0),
        (5, 3),
        (0, u64::MAX),
        (u64::MAX, u64::MAX),
        (3, 1 << 60),
    ] {
        assert!(inclusion(a, b).len() < 100 && consistency(a, b).len() < 100);
        assert!(verify_inclusion(b"", a, (b, &hash), &[]).is_err());
        let _ = verify_consistency((a, &hash), (b, &hash), &[hash]);
    }
}

proptest! {
    #[test]
    fn larger_trees_agree_too(size in 1u64..600, a in 0u64..600, b in 0u64..600) {
        let grown = grow(size);
        prop_assert_eq!(&grown.roots, &grown.oracle);
        let (position, old) = (a % size, b % size);
        let root = &grown.roots[size as usize];
        let spans = inclusion(position, size);
        prop_assert!(parts(&spans).len() <= 64);
        let proof = path(&spans, &grown.nodes).unwrap();
        prop_assert!(verify_inclusion(&grown.leaves[position as usize], position, (size, root), &proof).is_ok());
        let proof = path(&consistency(old, size), &grown.nodes).unwrap();
        prop_assert!(verify_consistency((old, &grown.roots[old as usize]), (size, root), &proof).is_ok());
        // Going on from what was stored is the same as having gone on all the time.
        let mut frontier = Frontier::at(old, &grown.nodes).unwrap();
        for n in old..size {
            frontier.push(leaf_hash(&grown.leaves[n as usize]));
        }
        prop_assert_eq!(frontier.root(), *root);
    }
}
