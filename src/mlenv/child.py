"""What a worker starts for a build, `python -m mlenv.child`, and for a job, `python -m mlenv.child job`."""

import sys

from mlenv.wiring.hosted import Hosted
from mlenv.work import child, job_child

if __name__ == "__main__":
    main = job_child.main if sys.argv[1:] == ["job"] else child.main
    sys.exit(main(Hosted))
