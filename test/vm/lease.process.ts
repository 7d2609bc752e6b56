// Runs where the daemon's network is: gives back the lease of a card. argv: URI, MAC address
import { connect } from '../../src/libvirt/index.ts'
import { releaseLeases } from '../../src/vm/lease.ts'

const [uri, mac] = process.argv.slice(2)
await using query = await connect(uri!)
console.log(JSON.stringify(await releaseLeases({ query }, [mac!])))
