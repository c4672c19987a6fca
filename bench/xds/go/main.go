// The yardstick: go-control-plane's snapshot cache and server, serving the same synthetic mesh as ../mesh.py.
//
//	gcp SERVICES XDS_PORT HTTP_PORT
//
// All nodes share one snapshot, which is the cheapest way to use the cache, and a change raises the version of the
// endpoints alone, so that nothing else is sent again. The directive below is there because without a go.mod, Go
// behaves as it did in 1.20.
//
//go:debug default=go1.24
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	port = 8080
	node = "all"
)

type oneSnapshot struct{}

func (oneSnapshot) ID(*core.Node) string { return node }

func name(i int) string { return fmt.Sprintf("svc-%d", i) }

func addresses(i int) []string {
	at := make([]string, 3)
	for k := range at {
		at[k] = fmt.Sprintf("10.%d.%d.%d", 100+k, i/250, i%250+1)
	}
	return at
}

func ads() *core.ConfigSource {
	return &core.ConfigSource{
		ResourceApiVersion:    core.ApiVersion_V3,
		ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
	}
}

func address(ip string) *core.Address {
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address:       ip,
		PortSpecifier: &core.SocketAddress_PortValue{PortValue: port},
	}}}
}

func makeCluster(service string) *cluster.Cluster {
	return &cluster.Cluster{
		Name:                 service,
		ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS},
		ConnectTimeout:       &durationpb.Duration{Seconds: 1},
		EdsClusterConfig:     &cluster.Cluster_EdsClusterConfig{EdsConfig: ads()},
	}
}

func makeAssignment(service string, at []string) *endpoint.ClusterLoadAssignment {
	endpoints := make([]*endpoint.LbEndpoint, len(at))
	for i, ip := range at {
		endpoints[i] = &endpoint.LbEndpoint{HostIdentifier: &endpoint.LbEndpoint_Endpoint{
			Endpoint: &endpoint.Endpoint{Address: address(ip)},
		}}
	}
	return &endpoint.ClusterLoadAssignment{
		ClusterName: service,
		Endpoints:   []*endpoint.LocalityLbEndpoints{{LbEndpoints: endpoints}},
	}
}

func makeRoutes(services int) *route.RouteConfiguration {
	hosts := make([]*route.VirtualHost, services)
	for i := range hosts {
		to := &route.RouteAction{ClusterSpecifier: &route.RouteAction_Cluster{Cluster: name(i)}}
		hosts[i] = &route.VirtualHost{
			Name:    name(i),
			Domains: []string{name(i)},
			Routes: []*route.Route{{
				Match:  &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: "/"}},
				Action: &route.Route_Route{Route: to},
			}},
		}
	}
	return &route.RouteConfiguration{Name: "8080", VirtualHosts: hosts}
}

func makeListener() *listener.Listener {
	rds := &hcm.Rds{RouteConfigName: "8080", ConfigSource: ads()}
	manager, err := anypb.New(&hcm.HttpConnectionManager{
		StatPrefix:     "bench",
		RouteSpecifier: &hcm.HttpConnectionManager_Rds{Rds: rds},
	})
	if err != nil {
		log.Fatal(err)
	}
	filter := &listener.Filter{Name: "hcm", ConfigType: &listener.Filter_TypedConfig{TypedConfig: manager}}
	return &listener.Listener{
		Name:         "8080",
		Address:      address("127.0.0.1"),
		FilterChains: []*listener.FilterChain{{Filters: []*listener.Filter{filter}}},
	}
}

// mesh holds what is served, and the state that changes.
type mesh struct {
	mu          sync.Mutex
	cache       cache.SnapshotCache
	fixed       cache.Snapshot
	names       []string
	at          map[string][]string
	assignments map[string]types.Resource
	version     int
}

func newMesh(services int) *mesh {
	m := &mesh{
		cache:       cache.NewSnapshotCache(true, oneSnapshot{}, nil),
		at:          map[string][]string{},
		assignments: map[string]types.Resource{},
	}
	var clusters []types.Resource
	for i := range services {
		n := name(i)
		m.names = append(m.names, n)
		m.at[n] = addresses(i)
		m.assignments[n] = makeAssignment(n, m.at[n])
		clusters = append(clusters, makeCluster(n))
	}
	m.fixed.Resources[types.Cluster] = cache.NewResources("1", clusters)
	m.fixed.Resources[types.Listener] = cache.NewResources("1", []types.Resource{makeListener()})
	m.fixed.Resources[types.Route] = cache.NewResources("1", []types.Resource{makeRoutes(services)})
	return m
}

func (m *mesh) publish(ctx context.Context) error {
	m.version++
	assignments := make([]types.Resource, len(m.names))
	for i, n := range m.names {
		assignments[i] = m.assignments[n]
	}
	snapshot := &cache.Snapshot{Resources: m.fixed.Resources}
	snapshot.Resources[types.Endpoint] = cache.NewResources(strconv.Itoa(m.version), assignments)
	return m.cache.SetSnapshot(ctx, node, snapshot)
}

func (m *mesh) change(ctx context.Context, op, service, ip string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.at[service]; !known {
		return fmt.Errorf("no service %q", service)
	}
	at := slices.DeleteFunc(slices.Clone(m.at[service]), func(a string) bool { return a == ip })
	if op == "add" {
		at = append(at, ip)
	}
	m.at[service] = at
	m.assignments[service] = makeAssignment(service, at)
	return m.publish(ctx)
}

func (m *mesh) handle(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	// Not the request's context: it ends with the request, and the cache may hold on to it.
	if err := m.change(context.Background(), q.Get("op"), q.Get("service"), q.Get("ip")); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprint(w, "ok")
}

func run(services int, xdsPort, httpPort string) error {
	ctx := context.Background()
	m := newMesh(services)
	if err := m.publish(ctx); err != nil {
		return err
	}
	socket, err := net.Listen("tcp", "127.0.0.1:"+xdsPort)
	if err != nil {
		return err
	}
	rpc := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(rpc, server.NewServer(ctx, m.cache, nil))
	go func() { log.Fatal(rpc.Serve(socket)) }()
	http.HandleFunc("POST /change", m.handle)
	return http.ListenAndServe("127.0.0.1:"+httpPort, nil)
}

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: gcp SERVICES XDS_PORT HTTP_PORT")
	}
	services, err := strconv.Atoi(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(run(services, os.Args[2], os.Args[3]))
}
