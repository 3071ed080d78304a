package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// natsQueue is a queue that any number of processes share. The stream says
// which job is next and holds no more than the backlog; a key-value bucket says
// what became of each.
type natsQueue struct {
	conn *nats.Conn
	js   jetstream.JetStream
	cons jetstream.Consumer
	kv   jetstream.KeyValue
}

func openNATS(url string, backlog int) (queue, error) {
	conn, err := nats.Connect(url, nats.MaxReconnects(-1))
	if err != nil {
		return nil, err
	}
	q := &natsQueue{conn: conn}
	if err := q.setup(backlog); err != nil {
		conn.Close()
		return nil, err
	}
	return q, nil
}

func (q *natsQueue) setup(backlog int) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if q.js, err = jetstream.New(q.conn); err != nil {
		return err
	}
	if q.kv, err = q.js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "jobs", TTL: keep}); err != nil {
		return err
	}
	if _, err = q.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:       "JOBS",
		Subjects:   []string{"jobs"},
		Retention:  jetstream.WorkQueuePolicy, // a job that has ended is gone, and its place is free
		MaxMsgs:    int64(backlog),
		Discard:    jetstream.DiscardNew,
		Duplicates: 2 * time.Minute, // afterwards the bucket knows the key
	}); err != nil {
		return err
	}
	q.cons, err = q.js.CreateOrUpdateConsumer(ctx, "JOBS", jetstream.ConsumerConfig{Durable: "workers", AckWait: lease})
	return err
}

func (q *natsQueue) put(ctx context.Context, j job) (job, error) {
	there, err := q.get(ctx, j.ID)
	if !errors.Is(err, errUnknown) {
		return there, err
	}
	b, err := json.Marshal(j)
	if err != nil {
		return j, err
	}
	// The message holds all that a worker needs, so that a process that dies
	// here has lost nothing: the worker makes the entry.
	_, err = q.js.Publish(ctx, "jobs", b, jetstream.WithMsgID(j.ID))
	if api := (*jetstream.APIError)(nil); errors.As(err, &api) && api.ErrorCode == 10077 { // more messages than MaxMsgs
		return j, errFull
	}
	if err != nil {
		return j, err
	}
	if _, err = q.kv.Create(ctx, j.ID, b); errors.Is(err, jetstream.ErrKeyExists) {
		return q.get(ctx, j.ID) // made by a worker already, or by a request with the same key
	}
	return j, err
}

func (q *natsQueue) get(ctx context.Context, id string) (j job, err error) {
	e, err := q.kv.Get(ctx, id)
	if errors.Is(err, jetstream.ErrKeyNotFound) || errors.Is(err, jetstream.ErrInvalidKey) {
		return j, errUnknown
	}
	if err != nil {
		return j, err
	}
	return j, json.Unmarshal(e.Value(), &j)
}

func (q *natsQueue) dead(ctx context.Context) ([]job, error) {
	keys, err := q.kv.ListKeysFiltered(ctx, "dead.*")
	if err != nil {
		return nil, err
	}
	defer keys.Stop()
	jobs := []job{}
	for key := range keys.Keys() {
		j, err := q.get(ctx, key)
		if err != nil && !errors.Is(err, errUnknown) {
			return nil, err
		}
		if jobs = append(jobs, j); len(jobs) == 1000 {
			break
		}
	}
	return jobs, nil
}

func (q *natsQueue) next(ctx context.Context) (*task, error) {
	for ctx.Err() == nil {
		m, err := q.cons.Next(jetstream.FetchContext(ctx))
		if errors.Is(err, nats.ErrTimeout) {
			continue
		} else if err != nil {
			return nil, err
		}
		t := &task{}
		t.end = func(again time.Duration) error { return q.end(m, t.job, again) }
		meta, err := m.Metadata()
		if err == nil {
			err = json.Unmarshal(m.Data(), &t.job)
		}
		if err != nil {
			return nil, errors.Join(err, m.Term()) // not a job
		}
		t.State, t.Attempts = running, int(meta.NumDelivered)
		return t, q.save(t.ID, t.job)
	}
	return nil, ctx.Err()
}

func (q *natsQueue) end(m jetstream.Msg, j job, again time.Duration) error {
	if j.State == dead {
		if err := q.save("dead."+j.ID, j); err != nil {
			return err
		}
	}
	if err := q.save(j.ID, j); err != nil {
		return err
	}
	if j.State == queued {
		return m.NakWithDelay(again)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return m.DoubleAck(ctx)
}

func (q *natsQueue) save(key string, j job) error {
	b, err := json.Marshal(j)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err = q.kv.Put(ctx, key, b)
	}
	return err
}

func (q *natsQueue) ping(context.Context) error {
	if !q.conn.IsConnected() {
		return errors.New("not connected")
	}
	return nil
}

func (q *natsQueue) close() error { return q.conn.Drain() }
