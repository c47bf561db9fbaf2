// Counts connections and bytes, as metrics for Prometheus.

package forward

import (
	"github.com/prometheus/client_golang/prometheus"

	"terok-gate-hook/internal/trail"
)

type counts struct {
	registry    *prometheus.Registry
	connections *prometheus.CounterVec
	bytes       *prometheus.CounterVec
	underWay    prometheus.Gauge
	listeners   prometheus.Gauge
}

func newCounts(services map[string]Target) counts {
	c := counts{
		registry: prometheus.NewRegistry(),
		connections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "terok_forward_connections_total", Help: "Connections that have ended, by service and result: connection, refused, failed or cut, as in the trail.",
		}, []string{"service", "result"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "terok_forward_bytes_total", Help: "Bytes of connections that have ended, sent to a service or received from it.",
		}, []string{"service", "direction"}),
		underWay: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "terok_forward_connections_open", Help: "Connections that are open.",
		}),
		listeners: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "terok_forward_listeners", Help: "Listeners: one for each service in each container's network.",
		}),
	}
	for service := range services {
		c.connections.WithLabelValues(service, trail.Connection)
		c.transferred(service, 0, 0)
	}
	c.registry.MustRegister(c.connections, c.bytes, c.underWay, c.listeners)
	return c
}

// count counts a connection that has ended.
func (c counts) count(e trail.Event) { c.connections.WithLabelValues(e.Service, e.Event).Inc() }

// transferred counts the bytes of a connection.
func (c counts) transferred(service string, sent, received int64) {
	c.bytes.WithLabelValues(service, "sent").Add(float64(sent))
	c.bytes.WithLabelValues(service, "received").Add(float64(received))
}
