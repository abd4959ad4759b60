// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"fmt"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"

	"afterfin/internal/export"
	"afterfin/internal/leak"
	"afterfin/internal/owner"
)

// text is an attribute with a name that somebody else gave. The kernel lets a process call itself
// anything; a string that is not UTF-8 would keep the whole batch from being sent.
func text(name, value string) attribute.KeyValue { return attribute.String(name, valid(value)) }

func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// record makes a finding a log record: OpenTelemetry's names where there are such, afterfin's behind
// them.
func record(f *export.Finding) log.Record {
	var r log.Record
	r.SetEventName(f.Kind.String())
	r.SetTimestamp(f.At)
	r.SetSeverity(log.SeverityWarn)
	r.SetSeverityText("WARN")
	switch f.Kind {
	case export.LeakFound:
		r.SetBody(attribute.StringValue(fmt.Sprintf("%s leaks %d sockets in CLOSE_WAIT and %d dead descriptors", nameOf(f.Group), len(f.Group.Leaks), len(f.Group.Dead))))
		r.AddAttributes(ofGroup(f.Group)...)
	case export.NoDescriptors:
		r.SetBody(attribute.StringValue(fmt.Sprintf("%s runs out of descriptors in %.0f s", nameOf(f.Group), f.In.Seconds())))
		r.AddAttributes(append(ofGroup(f.Group), attribute.Float64("afterfin.exhausted_in", f.In.Seconds()))...)
	case export.NoPorts:
		to := "wherever it connects to after bind()"
		if f.Destination.IsValid() {
			to = f.Destination.String()
		}
		r.SetBody(attribute.StringValue(fmt.Sprintf("ports from %v to %s run out in %.0f s", f.Source, to, f.In.Seconds())))
		r.AddAttributes(attribute.Int64("afterfin.netns", int64(f.NetNS)), attribute.String("network.local.address", f.Source.String()),
			attribute.Float64("afterfin.exhausted_in", f.In.Seconds()))
		if f.Destination.IsValid() {
			r.AddAttributes(attribute.String("network.peer.address", f.Destination.Addr().String()), attribute.Int("network.peer.port", int(f.Destination.Port())))
		}
	case export.Overflow:
		r.SetBody(attribute.StringValue(fmt.Sprintf("%d sockets got no TIME_WAIT: tcp_max_tw_buckets or memory is used up", f.Count)))
		r.AddAttributes(attribute.Int64("afterfin.netns", int64(f.NetNS)), attribute.Int64("afterfin.sockets", int64(f.Count)))
	}
	return r
}

func nameOf(g *leak.Group) string { return fmt.Sprintf("%s[%d]", valid(g.Process.Comm), g.Process.PID) }

func ofGroup(g *leak.Group) []attribute.KeyValue {
	verdict, _ := g.Verdict()
	found := append(ofProcess(g.Process), attribute.String("afterfin.verdict", verdict.String()),
		attribute.Int("afterfin.sockets", len(g.Leaks)), attribute.Int("afterfin.dead_fds", len(g.Dead)))
	if len(g.Leaks) > 0 {
		if age := g.Oldest(); age.Quality != leak.Unknown {
			found = append(found, attribute.Float64("afterfin.age", age.Min.Seconds()), attribute.String("afterfin.age.quality", age.Quality.String()))
		}
	}
	if len(g.Places) > 0 {
		if s := g.Places[0].Site; len(s.Frames) > 0 {
			at, _ := s.Named()
			frame := &s.Frames[at]
			if frame.Function != "" {
				found = append(found, text("code.function.name", frame.Function))
			}
			if frame.Line > 0 {
				found = append(found, text("code.file.path", frame.File), attribute.Int("code.line.number", frame.Line))
			}
		}
	}
	return found
}

func ofProcess(p *owner.Process) []attribute.KeyValue {
	found := []attribute.KeyValue{attribute.Int("process.pid", p.PID), text("process.executable.name", p.Comm)}
	for name, value := range map[string]string{
		"container.id": p.Container.ID, "k8s.pod.name": p.Container.Pod, "k8s.namespace.name": p.Container.Namespace, "afterfin.unit": p.Unit,
	} {
		if value != "" {
			found = append(found, text(name, value))
		}
	}
	if p.Container.Name != "" {
		name := "container.name"
		if p.Container.Pod != "" {
			name = "k8s.container.name"
		}
		found = append(found, text(name, p.Container.Name))
	}
	return found
}
