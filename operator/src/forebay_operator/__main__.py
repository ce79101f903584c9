"""`python -m forebay_operator`. The imports wait: children that only read offsets begin here too and need none of them."""

if __name__ == "__main__":
    import sys

    import forebay.starting  # noqa: F401 - before what takes long to load
    from forebay_operator.running import main

    raise SystemExit(main(sys.argv[1:]))
