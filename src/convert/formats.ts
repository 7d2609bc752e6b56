/** What a conversion writes. By itself, so that describing a VM needs nothing else of the plan. */
export type OutputFormat = 'qcow2' | 'raw' | 'vdi'
