-- A store as the first version of the schema left it: one conversation in a row, one empty, one with a deleted mark.
CREATE TABLE models (path TEXT PRIMARY KEY, added REAL NOT NULL);
CREATE TABLE conversations (
    id INTEGER PRIMARY KEY, title TEXT NOT NULL, model_path TEXT NOT NULL, system TEXT NOT NULL DEFAULT '',
    pinned INTEGER NOT NULL DEFAULT 0, deleted INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL, updated REAL NOT NULL
);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY, conversation_id INTEGER NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
    role TEXT NOT NULL, content TEXT NOT NULL, stats TEXT, partial INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL
);
CREATE INDEX messages_by_conversation ON messages(conversation_id, id);
CREATE VIRTUAL TABLE message_text USING fts5(content, content='messages', content_rowid='id');
CREATE TRIGGER messages_added AFTER INSERT ON messages BEGIN
    INSERT INTO message_text(rowid, content) VALUES (new.id, new.content);
END;
CREATE TRIGGER messages_gone AFTER DELETE ON messages BEGIN
    INSERT INTO message_text(message_text, rowid, content) VALUES ('delete', old.id, old.content);
END;
CREATE TRIGGER messages_changed AFTER UPDATE OF content ON messages BEGIN
    INSERT INTO message_text(message_text, rowid, content) VALUES ('delete', old.id, old.content);
    INSERT INTO message_text(rowid, content) VALUES (new.id, new.content);
END;
CREATE TABLE measurements (
    id INTEGER PRIMARY KEY, model_path TEXT NOT NULL, kind TEXT NOT NULL,
    payload TEXT NOT NULL, created REAL NOT NULL
);
CREATE INDEX measurements_by_model ON measurements(model_path, kind, created);
INSERT INTO conversations(id, title, model_path, created, updated) VALUES (1, 'Capitals', '/m.gguf', 100.0, 200.0), (2, 'Empty', '/m.gguf', 100.0, 100.0), (3, 'Gone', '/m.gguf', 100.0, 100.0);
UPDATE conversations SET deleted = 1 WHERE id = 3;
INSERT INTO messages(id, conversation_id, role, content, stats, partial, created) VALUES
    (1, 1, 'user', 'What is the capital of France?', NULL, 0, 101.0),
    (2, 3, 'user', 'secret', NULL, 0, 102.0),
    (3, 1, 'assistant', 'Paris.', '{"tokens": 2}', 0, 103.0),
    (5, 1, 'user', 'And of Italy?', NULL, 0, 104.0),
    (6, 1, 'assistant', 'Ro', NULL, 1, 105.0);
PRAGMA user_version = 1;
