-- Alerts say what ended them: that the trouble was over, that the run ended, that another alert explains it.

CREATE OR REPLACE VIEW alerts AS
SELECT
    e.project                                                                      AS project,
    e.run_id                                                                       AS run_id,
    e.alert_id                                                                     AS alert_id,
    argMax(e.kind, e.sequence)                                                     AS kind,
    argMax(e.subject, e.sequence)                                                  AS subject,
    argMax(e.state, e.sequence)                                                    AS state,
    argMax(e.severity, e.sequence)                                                 AS severity,
    argMax(e.title, e.sequence)                                                    AS title,
    argMax(e.text, (e.state != 'resolved', e.sequence))                            AS text,
    min(e.started)                                                                 AS started,
    minIf(toNullable(e.ts), e.state = 'firing')                                    AS fired,
    maxIf(toNullable(e.ts), e.state = 'resolved')                                  AS resolved,
    -- What run.alert() says is over at once: nothing ended it.
    argMaxIf(e.text, e.sequence, e.state = 'resolved' AND e.kind != 'user')        AS ending,
    argMax(e.source, e.sequence)                                                   AS source,
    argMaxIf(e.step, e.sequence, e.step IS NOT NULL)                               AS step,
    argMaxIf(e.value, e.sequence, e.value IS NOT NULL)                             AS value,
    argMaxIf(e.rank, e.sequence, e.rank IS NOT NULL)                               AS rank,
    argMax(e.host, e.sequence)                                                     AS host,
    argMax(e.gpu, e.sequence)                                                      AS gpu,
    argMax(e.silenced, e.sequence)                                                 AS silenced,
    mapFromArrays(argMax(e.label_names, e.sequence), argMax(e.label_values, e.sequence)) AS labels
FROM alert_events AS e
GROUP BY project, run_id, alert_id;
