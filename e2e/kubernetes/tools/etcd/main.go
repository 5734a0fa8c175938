// The etcd server, from its module, because Debian's is too old: 3.4 refuses
// the progress requests that Kubernetes' streaming lists depend on.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
