"""A ClickHouse server for one machine, on loopback, in front of the engine as a library (chDB).

`python -m pulsetrain_local.clickhouse --path DIR --port N --http-port M --user U --password-file F`; clickhouse-driver,
clickhouse-connect, `clickhouse-client` and curl see an ordinary server.

    server      accepts connections, a thread each
    host        what all connections share: the engine, who may enter, the watcher
    session     one native connection: packets in, answers out
    handshake   who may enter                replies              what is sent, and progress
    protocol    packets                      wire, compression    bytes
    http_server one connection over HTTP: requests in, answers out
    http_query  what is asked                http_body            the rows that come with it
    http_sessions  what outlives a request
    blocks      blocks and their extents     columns              the layouts of the types
    statements  what a server must know of a statement
    settings    the settings that come with a query
    legacy      types for clients older than they are
    holding     the rows of an INSERT until its end
    watcher     cancelling and progress while the engine works
    engine      chDB
"""
