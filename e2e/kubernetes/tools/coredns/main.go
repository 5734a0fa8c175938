// CoreDNS with only the plugins that the laboratory's Corefile names. The
// stock program imports the clients of several clouds, which take minutes to
// compile and are never called here.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
	_ "github.com/coredns/coredns/plugin/template"
)

// The order is the order in which a query passes through the plugins.
var directives = []string{
	"reload",
	"health",
	"ready",
	"errors",
	"cache",
	"hosts",
	"kubernetes",
	"template",
}

func main() {
	dnsserver.Directives = directives
	coremain.Run()
}
