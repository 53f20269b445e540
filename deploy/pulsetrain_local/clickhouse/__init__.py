"""A ClickHouse server for one machine: the native protocol on loopback, in front of the engine as a library (chDB).

`python -m pulsetrain_local.clickhouse --path DIR --port N --user U --password-file F`; clickhouse-driver and
`clickhouse-client` see an ordinary server. A later HTTP port has its place beside `session`: what it needs of the
engine, the statements and the settings knows nothing of the native protocol.

    server      accepts connections, a thread each
    session     one connection: packets in, answers out
    handshake   who may enter                replies              what is sent, and progress
    protocol    packets                      wire, compression    bytes
    blocks      blocks and their extents     columns              the layouts of the types
    statements  what a server must know of a statement
    settings    the settings that come with a query
    legacy      types for clients older than they are
    holding     the blocks of an INSERT until its end
    watcher     cancelling and progress while the engine works
    engine      chDB
"""
