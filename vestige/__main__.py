from vestige.bench.cli import main

raise SystemExit(main())
