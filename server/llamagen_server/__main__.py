from llamagen_server.cli import main

main()
