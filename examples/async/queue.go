package main

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"maragu.dev/goqite"
	_ "modernc.org/sqlite" // driver "sqlite", pure Go
)

// The states of a job.
const (
	queued  = "queued"
	running = "running"
	done    = "done"
	dead    = "dead"
)

const (
	lease = jobTimeout + 5*time.Second // a job that is silent for longer is given to another worker
	keep  = 24 * time.Hour             // how long a job that is done is remembered, and with it its Idempotency-Key
)

var (
	errFull    = errors.New("the queue is full")
	errUnknown = errors.New("no such job")
)

type job struct {
	ID       string `json:"id"`
	State    string `json:"state"`
	Attempts int    `json:"attempts"`
	Body     string `json:"body"`
	Result   string `json:"result,omitempty"`
	Error    string `json:"error,omitempty"` // of the last attempt
}

// A task is a job for a worker, who fills in State, Result and Error and calls
// end; again is when to try once more if State is queued.
type task struct {
	job
	end func(again time.Duration) error
}

// A queue keeps jobs. It is safe for concurrent use.
type queue interface {
	put(ctx context.Context, j job) (job, error) // the job that is there already, if one is; errFull
	get(ctx context.Context, id string) (job, error)
	dead(ctx context.Context) ([]job, error) // at most 1000, oldest first
	next(ctx context.Context) (*task, error) // waits for one
	ping(ctx context.Context) error
	close() error
}

// sqlite is a queue on disk, for one process. goqite says which job is next and
// when; the table jobs says what became of it, in the same transactions.
type sqlite struct {
	db      *sql.DB
	q       *goqite.Queue
	backlog int
	wake    chan struct{}
}

func openSQLite(file string, backlog int) (queue, error) {
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // SQLite has one writer
	var there int
	err = db.QueryRow(`SELECT count(*) FROM sqlite_master WHERE name = 'goqite'`).Scan(&there)
	if err == nil && there == 0 {
		err = goqite.Setup(context.Background(), db)
	}
	if err == nil {
		_, err = db.Exec(`CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, state TEXT NOT NULL, attempts INTEGER NOT NULL,
			body TEXT NOT NULL, result TEXT NOT NULL, error TEXT NOT NULL, changed INTEGER NOT NULL) WITHOUT ROWID;
			CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, changed)`)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	// Attempts are counted in jobs, where they are seen; goqite's own count is no limit.
	q := goqite.New(goqite.NewOpts{DB: db, Name: "jobs", MaxReceive: 1 << 30, Timeout: lease})
	return &sqlite{db: db, q: q, backlog: backlog, wake: make(chan struct{}, 1)}, nil
}

func (s *sqlite) tx(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := do(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

const columns = `id, state, attempts, body, result, error`

func (j *job) fields() []any {
	return []any{&j.ID, &j.State, &j.Attempts, &j.Body, &j.Result, &j.Error}
}

func (s *sqlite) put(ctx context.Context, j job) (job, error) {
	err := s.tx(ctx, func(tx *sql.Tx) error {
		now := time.Now()
		if _, err := tx.ExecContext(ctx, `DELETE FROM jobs WHERE state = 'done' AND changed < ?`, now.Add(-keep).UnixMilli()); err != nil {
			return err
		}
		var there job
		err := tx.QueryRowContext(ctx, `SELECT `+columns+` FROM jobs WHERE id = ?`, j.ID).Scan(there.fields()...)
		if !errors.Is(err, sql.ErrNoRows) {
			j = there
			return err
		}
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')`).Scan(&n); err != nil {
			return err
		}
		if n >= s.backlog {
			return errFull
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO jobs VALUES (?, ?, ?, ?, '', '', ?)`, j.ID, j.State, 0, j.Body, now.UnixMilli()); err != nil {
			return err
		}
		return s.q.SendTx(ctx, tx, goqite.Message{Body: []byte(j.ID)})
	})
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return j, err
}

func (s *sqlite) get(ctx context.Context, id string) (j job, err error) {
	err = s.db.QueryRowContext(ctx, `SELECT `+columns+` FROM jobs WHERE id = ?`, id).Scan(j.fields()...)
	if errors.Is(err, sql.ErrNoRows) {
		err = errUnknown
	}
	return j, err
}

func (s *sqlite) dead(ctx context.Context) ([]job, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT `+columns+` FROM jobs WHERE state = 'dead' ORDER BY changed LIMIT 1000`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	jobs := []job{}
	for rows.Next() {
		var j job
		if err := rows.Scan(j.fields()...); err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	return jobs, rows.Err()
}

func (s *sqlite) next(ctx context.Context) (*task, error) {
	for {
		t := &task{}
		err := s.tx(ctx, func(tx *sql.Tx) error {
			m, err := s.q.ReceiveTx(ctx, tx)
			if err != nil || m == nil {
				return err
			}
			t.end = func(again time.Duration) error { return s.end(m.ID, t.job, again) }
			return tx.QueryRowContext(ctx, `UPDATE jobs SET state = 'running', attempts = attempts + 1, changed = ? WHERE id = ? RETURNING `+columns,
				time.Now().UnixMilli(), string(m.Body)).Scan(t.fields()...)
		})
		if err != nil || t.end != nil {
			return t, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.wake:
		case <-time.After(100 * time.Millisecond): // one that is to be tried again
		}
	}
}

func (s *sqlite) end(id goqite.ID, j job, again time.Duration) error {
	ctx := context.Background()
	return s.tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE jobs SET state = ?, result = ?, error = ?, changed = ? WHERE id = ?`, j.State, j.Result, j.Error, time.Now().UnixMilli(), j.ID)
		if err != nil {
			return err
		}
		if j.State == queued {
			return s.q.ExtendTx(ctx, tx, id, again)
		}
		return s.q.DeleteTx(ctx, tx, id)
	})
}

func (s *sqlite) ping(ctx context.Context) error { return s.db.PingContext(ctx) }
func (s *sqlite) close() error                   { return s.db.Close() }
