# Everything here is plain cargo: `just` saves typing and is needed for nothing.

# What a change must pass before it is proposed
check: lint test

# Form, lints, documentation
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --features domicile/planted-faults -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# All tests; needs PostgreSQL's server programs, and installs them where it may
test:
    cargo test --workspace --features domicile/planted-faults

# Copy and stream meet: a million interleavings (twenty thousand run with the tests)
prop:
    DOMICILE_CASES=1000000 cargo test -p mover --lib portion

# Bent requests in pairs, of which an application must never hear a third: a hundred thousand before each of four servers (two thousand
# before one run with the tests); needs python3, node and nginx
desync:
    DOMICILE_CASES=100000 DOMICILE_SERVERS=hyper,python,node,nginx cargo test --release -p gateway --test desync -- --nocapture

# A market moves under visitors of all of them, with so many times the users and requests of the test (900 and some thousands)
visits scale="40":
    DOMICILE_SCALE={{scale}} cargo test -p domicile --features planted-faults --test gateway -- --nocapture a_market_moves

# The whole story on this machine
demo:
    cargo run --release -p domicile -- demo

# What a move costs beside what one would use instead: rows, link, gateway, objects, messages or all
bench what="all" *options:
    cargo build --release -p domicile
    cargo run --release -p bench -- {{what}} {{options}}

# The Debian package: built, installed, its program run against throwaway databases; needs cargo-deb
package:
    packaging/test

# A Debian package installed, its unit started and stopped, under a systemd of its own beside this machine's; as root
package-try deb:
    packaging/try-unit {{deb}}
