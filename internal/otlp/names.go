// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// standard is a metric that OpenTelemetry's semantic conventions have a name for.
type standard struct {
	name, unit string
	labels     []attribute.KeyValue
	upDown     bool // a sum that may fall, where Prometheus has a gauge
}

var standards = map[string]standard{
	"afterfin_close_wait_sockets":   connections("close_wait"),
	"afterfin_time_wait_sockets":    connections("time_wait"),
	"process_cpu_seconds_total":     {name: "process.cpu.time", unit: "s"},
	"process_resident_memory_bytes": {name: "process.memory.usage", unit: "By", upDown: true},
	"process_virtual_memory_bytes":  {name: "process.memory.virtual", unit: "By", upDown: true},
	"process_open_fds":              {name: "process.unix.file_descriptor.count", unit: "{file_descriptor}", upDown: true},
}

func connections(state string) standard {
	return standard{name: "system.network.connection.count", unit: "{connection}", upDown: true, labels: []attribute.KeyValue{
		attribute.String("network.transport", "tcp"), attribute.String("network.connection.state", state)}}
}

// unitOf is by the end of a name of Prometheus, which then goes.
var unitOf = []struct{ suffix, unit string }{{"_seconds", "s"}, {"_bytes", "By"}, {"_ratio", "1"}}

// translate gives metrics with Prometheus' names those of OpenTelemetry.
func translate(in []metricdata.Metrics) []metricdata.Metrics {
	var out []metricdata.Metrics
	at := make(map[string]int)
	for _, m := range in {
		if s, ok := standards[m.Name]; ok {
			m.Name, m.Unit, m.Data = s.name, s.unit, s.of(m.Data)
		} else {
			m.Name = strings.TrimSuffix(m.Name, "_total")
			for _, u := range unitOf {
				if name, ok := strings.CutSuffix(m.Name, u.suffix); ok {
					m.Name, m.Unit = name, u.unit
				}
			}
			m.Name = strings.Replace(m.Name, "_", ".", 1) // afterfin., process.
		}
		i, known := at[m.Name]
		if !known {
			at[m.Name] = len(out)
			out = append(out, m)
			continue
		}
		out[i].Data = join(out[i].Data, m.Data)
	}
	return out
}

// of adds the labels.
func (s *standard) of(data metricdata.Aggregation) metricdata.Aggregation {
	gauge, ok := data.(metricdata.Gauge[float64])
	if !ok || !s.upDown {
		return data
	}
	sum := metricdata.Sum[float64]{Temporality: metricdata.CumulativeTemporality}
	for _, p := range gauge.DataPoints {
		p.Attributes = attribute.NewSet(append(p.Attributes.ToSlice(), s.labels...)...)
		sum.DataPoints = append(sum.DataPoints, p)
	}
	return sum
}

// join: only sums have one name for two of Prometheus'.
func join(a, b metricdata.Aggregation) metricdata.Aggregation {
	first, ok := a.(metricdata.Sum[float64])
	second, alike := b.(metricdata.Sum[float64])
	if ok && alike {
		first.DataPoints = append(first.DataPoints, second.DataPoints...)
	}
	return first
}
