"""(βDᵀWD + A)⁻¹ of a problem at one θ, by the columns of D if these are few, and otherwise by DDᵀ without D."""
