// Merges the overlays of one attempt's folder, in a process of its own that a test can kill: `node … SCRATCH FORMAT KEY`.
import { mergeHere } from './fix-scene.ts'

const [scratch, format, key] = process.argv.slice(2)
await mergeHere(scratch!, format as 'qcow2' | 'raw' | 'vdi', key!)
